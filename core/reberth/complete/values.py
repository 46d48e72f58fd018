"""The values that can be offered, by what an option or argument is called: nodes, workloads, runs, plugins, hosts."""

from __future__ import annotations

from reberth.complete import cache, local

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from reberth.complete.words import Answer

    Env = Mapping[str, str]
MODES = ("auto", "stop-and-copy", "pre-copy", "post-copy", "hybrid", "near-live")
FIXED = {
    "--mode": MODES,
    "--become": ("none", "sudo"),
    "--policy": ("downtime", "lxd", "fixed"),
    "--files": ("auto", "none"),
    "--compress": ("auto", "zstd", "zlib", "none"),
    "--lxd-mode": ("pull", "push", "relay"),
    "--on-failure": ("hold", "rollback"),
    "--timeout": ("30s", "90s", "5m"),
    "--client": ("lxc", "incus"),
    "SHELL": ("bash", "zsh", "fish"),
}
ALIASES = ("move", "live")
LAB_KINDS = ("namespace", "vm", "android")
NODE_NAMES = ("node rm", "node show", "node enable", "node disable")  # where the argument NAME is a node's


def _answer(values: Sequence[str] | dict[str, str], *, ordered: bool = False) -> Answer:
    from reberth.complete.words import Answer

    pairs = list(values.items()) if isinstance(values, dict) else [(value, "") for value in values]
    return Answer(pairs, ordered=ordered)


def of_option(path: str, option: str, environ: Env) -> Answer:
    """Values of an option; nothing where any text will do."""
    from reberth.complete.table import COMMANDS
    from reberth.complete.words import Answer

    word = COMMANDS[path][2].get(option, ("",))[0]
    if option == "--name" and path.startswith("lxd alias"):
        return _answer(ALIASES)
    if option in FIXED:
        return _answer(FIXED[option], ordered=True)
    if option in ("--backend", "--transport"):
        return _answer(local.enabled(local.tables(environ), f"{option[2:]}s"))
    if option == "--kind" and path.startswith("lab"):
        return _answer(LAB_KINDS)
    if word == "ADDRESS":
        return _answer(local.ssh_hosts(environ))
    if word in ("FILE", "FILE.PUB", "DIR"):
        return Answer(files="dirs" if word == "DIR" else "files")
    return Answer()


def of_argument(path: str, word: str, before: Sequence[str], fragment: str, environ: Env) -> Answer:
    """Values of the argument called `word`, after the arguments before it."""
    from reberth.complete.words import Answer

    if word == "PHONE" or (word == "NAME" and path in NODE_NAMES):
        word = "NODE"
    elif word == "NAME" and path == "node add":
        word = "ADDRESS"  # without an address the name is one
    if word in FIXED:
        return _answer(FIXED[word])
    if word in ("DIR", "FILE", "LOGFILE"):
        return Answer(files="dirs" if word == "DIR" else "files")
    known: dict[str, Callable[[], Answer]] = {
        "SOURCE": lambda: source(fragment, environ),
        "TARGET": lambda: target(before, fragment, environ),
        "NODE": lambda: _answer([name for name in local.nodes(local.tables(environ)) if name not in before]),
        "ID": lambda: _answer(local.runs(environ), ordered=True),
        "PLUGIN": lambda: _answer(local.plugins()),
        "ADDRESS": lambda: _answer(local.ssh_hosts(environ)),
    }
    return known[word]() if word in known else Answer()


def source(fragment: str, environ: Env) -> Answer:
    """`NODE:` first; after the colon the workloads of that node; without one also those of this machine."""
    tables = local.tables(environ)
    node, colon, rest = fragment.partition(":")
    if colon:
        if node not in tables:
            return _answer(())
        found = _workloads(node, local.backends_of(tables, node), rest, environ)
        answer = _answer({f"{node}:{name}": text for name, text in found.items()})
    else:
        node = local.LOCAL
        found = _workloads(node, local.backends_of(tables, node), fragment, environ)
        answer = _answer({**{f"{name}:": "" for name in local.nodes(tables)}, **found})
    answer.stale = [node] if cache.is_old(node, environ) else []
    return answer


def _workloads(node: str, backends: Sequence[str], fragment: str, environ: Env) -> dict[str, str]:
    """Names of a node's workloads; with the backend before it once a slash is typed or two backends have the name."""
    found = [entry for entry in cache.read(node, environ) if entry.backend in backends]
    names = [entry.name for entry in found]
    words = {}
    for entry in found:
        # a name of two backends is not clear alone, but once typed it must still match
        full = "/" in fragment or (names.count(entry.name) > 1 and not (fragment and entry.name.startswith(fragment)))
        words[f"{entry.backend}/{entry.name}" if full else entry.name] = f"{entry.backend}, {entry.status}"
    return words


def target(before: Sequence[str], fragment: str, environ: Env) -> Answer:
    """`NODE:` of every node but the source's; a node that is written out is a complete target, the name stays."""
    taken = before[0].partition(":")[0] if before and ":" in before[0] else "local"
    names = [f"{name}:" for name in local.nodes(local.tables(environ)) if name != taken]
    answer = _answer(names)
    answer.closed = fragment in names
    return answer
