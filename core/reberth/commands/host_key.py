"""The host key that a node shows, fetched by ssh itself with the words of the connection: one look without a login.

So jump hosts, aliases and `Match` are what they are later. Its known-hosts file is a temporary one, and the user's own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reberth.connect.failures import Heard, by_jump_host, untrusted
from reberth.connect.process import Finished, run_local
from reberth_hooks import CommandError, Node, Route, UnreachableError, UntrustedError, UsageError

CONNECT_S = 40.0
# Of an option only the first value counts, so these go before the words of the connection. DEBUG1 tells which line of
# which file has the key; as an option it stays with this ssh, where -v would go on to that of a jump host.
LOOK = (
    *("-o", "StrictHostKeyChecking=accept-new", "-o", "PreferredAuthentications=none", "-o", "LogLevel=DEBUG1"),
    *("-o", "HashKnownHosts=no", "-o", "UpdateHostKeys=no", "-o", "CheckHostIP=no", "-o", "VerifyHostKeyDNS=no"),
)
ALONE = ("-o", "GlobalKnownHostsFile=none", "-o", "KnownHostsCommand=none")
KINDS = (
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-", "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521"),
    ("ssh-rsa", "rsa-sha2-512,rsa-sha2-256"),
)
Settings = dict[str, str]


@dataclass(frozen=True, slots=True)
class HostKey:
    """One line of a known_hosts file, its kind and fingerprint as ssh-keygen prints them, and who vouches for it.

    `known` is where the user's own ssh has it already; the line of an authority stands for the keys that it signs.
    """

    line: str
    kind: str
    fingerprint: str
    known: str = ""


def parse(line: str) -> HostKey | None:
    """A line of a known_hosts file; None for anything else."""
    words = line.split()
    marker = words[:1] if line.startswith("@") else []
    kind_and_key = words[len(marker) + 1 :][:2]
    if len(kind_and_key) < 2 or line.startswith("#"):
        return None
    try:
        digest = hashlib.sha256(base64.b64decode(kind_and_key[1], validate=True)).digest()
    except binascii.Error:
        return None
    fingerprint = "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
    return HostKey(" ".join(words[: len(marker) + 3]), kind_and_key[0], fingerprint)


def fetch(node: Node, route: Route, fingerprint: str = "") -> HostKey:
    """The key to pin: the one that the node shows, or that of this fingerprint where it has several.

    Raises UsageError for an address that ssh takes otherwise, UnreachableError when no key comes, and UntrustedError
    for another key than the user's ssh knows, or than was asked for.
    """
    if Path(route.control[0] if route.control else "").name != "ssh":
        text = f"connector {node.connector} of node {node.name} does not use ssh, so it has no host key"
        raise UsageError(text, hint=f"to see what it has: reberth node show {node.name}")
    settings = _settings(route)
    _check_address(node, settings)
    first = _first(node, route, settings, fingerprint)
    if not fingerprint or first.fingerprint == fingerprint:
        return first
    shown = [first]
    for key in _others(node, route, first.kind):
        if key.fingerprint == fingerprint:
            return key
        shown.append(key)
    raise wrong(shown, fingerprint)


def wrong(shown: Iterable[HostKey], fingerprint: str) -> UntrustedError:
    """The error when a node has not the key that was asked for."""
    tail = "\n".join(f"{key.fingerprint} {key.kind}" for key in shown)
    hint = "somebody may be between you and the node, or it was installed anew: ask whoever runs it"
    return UntrustedError(
        f"no host key of the node has the fingerprint {fingerprint!a}; it shows:", hint=hint, tail=tail
    )


def pinned(node: Node, route: Route) -> list[HostKey]:
    """The keys that the node's own known-hosts file has for it; `route` is the way there as it is configured."""
    path = Path(str(node.options_of(node.connector).get("known_hosts") or ""))
    if not path.is_file():
        return []
    found = _settings(route)
    host, port = found.get("hostname", node.address), found.get("port", "22")
    names = {found.get("hostkeyalias", host), host, f"[{host}]:{port}"}
    lines = (run_local(["ssh-keygen", "-F", name, "-f", str(path)]).out for name in sorted(names))
    keys = [parse(line) for text in lines for line in text.splitlines()]
    return list(dict.fromkeys(key for key in keys if key is not None))


def _settings(route: Route) -> Settings:
    """What ssh_config says for these words (`ssh -G`)."""
    done = run_local([route.control[0], "-G", *route.control[1:]], env=dict(route.env) or None)
    if done.code != 0:
        tail = done.err.strip()
        raise UsageError("ssh does not take its configuration, or these words", hint="see the lines above", tail=tail)
    return dict(line.split(" ", 1) for line in done.out.splitlines() if " " in line)


def _check_address(node: Node, settings: Settings) -> None:
    """UsageError for brackets or a port in the address, unless ssh_config has a Host of that very name."""
    user, at, host = (node.address or node.name).rpartition("@")
    found = re.fullmatch(r"\[([^\[\]]+)\](?::([0-9]+))?", host) or re.fullmatch(r"([^:/]+):([0-9]+)", host)
    if found is None or settings.get("hostname", host).lower() != host.lower():
        return
    better = f"reberth node add {node.name} {user}{at}{found[1]} --port {found[2] or 22}"
    raise UsageError(f"ssh takes {host!a} for the name of a host", hint=f"without brackets; --port 22: {better}")


def _first(node: Node, route: Route, settings: Settings, fingerprint: str) -> HostKey:
    """The key that this connection shows; where the user's ssh knows it, that line, and who vouches for it."""
    words = [word for key in ("userknownhostsfile",) for word in settings.get(key, "").split() if word != "none"]
    key, done = _look(route, words, [])
    if key is not None:
        return key
    if "REVOKED" in done.err:
        raise UntrustedError(
            f"the host key of {node.name} is revoked in your known_hosts", hint="ask whoever runs it", tail=_told(done)
        )
    if "Host key verification failed" in done.err and by_jump_host(done.err):
        raise untrusted(node, Heard(done.code, _told(done)))
    changed = re.search(r"IDENTIFICATION HAS CHANGED|Host key verification failed", done.err)
    known = _known(done)
    if known is not None and not (fingerprint and changed):
        return known
    if changed and not fingerprint:
        hint = "ask whoever runs it; if it was installed anew: ssh-keygen -R HOST, or --fingerprint SHA256:..."
        text = f"{node.name} shows another host key than your ssh knows"
        raise UntrustedError(text, hint=hint, tail=_told(done))
    if not changed and not re.search(r"Host '.*' is known and matches", done.err):
        hint = route.hint or "is sshd running there, and are address and port right?"
        raise UnreachableError(f"{node.name} shows no ssh host key", hint=hint, tail=_told(done))
    # Known by a command, or the fingerprint that was typed speaks for it: the line itself comes by one more look.
    key, done = _look(route, [], ALONE)
    if key is None:
        raise UnreachableError(f"{node.name} shows no ssh host key", hint=route.hint, tail=_told(done))
    return key if changed else HostKey(key.line, key.kind, key.fingerprint, "its KnownHostsCommand")


def _others(node: Node, route: Route, kind: str) -> Iterator[HostKey]:
    """The node's keys of other kinds, each by a look of its own; asked for only where a fingerprint is missing."""
    for name, algorithms in KINDS:
        if not kind.startswith(name):
            key, _ = _look(route, [], [*ALONE, "-o", f"HostKeyAlgorithms={algorithms}"])
            if key is not None:
                yield key


def _look(route: Route, files: Sequence[str], more: Sequence[str]) -> tuple[HostKey | None, Finished]:
    """Connect without a login; a key that is in none of `files` (nor the global ones) is answered."""
    with tempfile.TemporaryDirectory(prefix="reberth-") as place:
        new = Path(place) / "known_hosts"
        named = " ".join(f'"{name}"' for name in (str(new), *files))
        words = [*LOOK, *more, "-o", f"UserKnownHostsFile={named}", *route.control[1:], "true"]
        try:
            done = run_local([route.control[0], *words], timeout_s=CONNECT_S, env=dict(route.env) or None)
        except CommandError as error:
            raise UnreachableError(error.message, hint=route.hint) from error
        lines = new.read_text(encoding="utf-8").splitlines() if new.exists() else []
    keys = [key for key in map(parse, lines) if key is not None]
    return (keys[0] if keys else None), done


def _known(done: Finished) -> HostKey | None:
    """The line of the user's files that ssh has found the key in, as one for the node's own file."""
    found = re.findall(r"Found (key|CA key) in (.+):([0-9]+)\s*$", done.err, re.M)
    if not found:
        return None
    what, path, number = found[-1]  # a jump host's comes before
    try:
        line = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()[int(number) - 1]
    except (OSError, IndexError):
        return None
    key = parse(line)
    if key is None:
        return None
    blob = key.line.split()[-1]
    if what == "key":
        return HostKey(f"* {key.kind} {blob}", key.kind, key.fingerprint, f"{path}:{number}")
    shown = re.findall(r"Server host certificate: (\S+) (SHA256:\S+?),", done.err)
    kind, fingerprint = shown[-1] if shown else (key.kind, key.fingerprint)
    return HostKey(f"@cert-authority * {key.kind} {blob}", kind, fingerprint, f"the authority in {path}:{number}")


def _told(done: Finished) -> str:
    """What ssh said, without its debug lines."""
    lines = [line for line in done.err.splitlines() if not re.match(r"debug\d|OpenSSH_|Authenticated to ", line)]
    return "\n".join(lines).strip()
