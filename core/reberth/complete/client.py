"""The tab key behind an alias of lxc or incus: the client's own words, and ours beside them.

Clients with cobra's completion hand the words of an alias to the program that it names. For ours that is
`reberth __complete lxd shim CLIENT FRAGMENT WORD...`, the fragment first. What the client itself would offer for `move`
is asked of it, past the alias; so every word that it knows is still there, and its remotes are its own affair.
"""

from __future__ import annotations

import os
import select
import signal
import time

from reberth.complete.words import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATH = ["lxd", "shim"]
GUARDS = {"lxc": "LXC_ALIASES", "incus": "INCUS_ALIASES"}  # with it set, a client looks at no alias
OURS = {
    "--incremental-memory": "reberth: send memory ahead while the container runs",
    "--iterations": "reberth: so many rounds of memory at most",
    "--goal": "reberth: stop when so many percent are unchanged",
    "--native": "leave it to the client, whatever the container's keys say",
}
WITH_VALUE = ("--iterations", "--goal")
MODES = ("pull", "push", "relay")
LIMIT_S = 5.0  # a client asks its remotes, and one that is away must not hold the shell for ever
NO_FILES, ERROR = 4, 1


def is_alias(arguments: Sequence[str]) -> bool:
    """Tell whether a client has handed its words over."""
    return list(arguments[:2]) == PATH and len(arguments) > 3 and arguments[2] in GUARDS


def answer(arguments: Sequence[str], environ: Mapping[str, str]) -> Answer:
    """Return the candidates for the fragment, which is the fourth word."""
    client, fragment, before = arguments[2], arguments[3], list(arguments[4:])
    if before and before[-1] in WITH_VALUE:
        return Answer()
    if before and before[-1] == "--mode":
        return Answer([(mode, "") for mode in MODES if mode.startswith(fragment)], ordered=True)
    lines = _said([client, "__complete", "move", *_without_ours(before), fragment], environ, GUARDS[client])
    found, flags = read(lines)
    used = {word.partition("=")[0] for word in before}
    if fragment.startswith("-"):
        found += [(name, text) for name, text in OURS.items() if name.startswith(fragment) and name not in used]
    mine = Answer(found)
    mine.flags = flags
    return mine


def _without_ours(words: Sequence[str]) -> list[str]:
    """Return the words that the client knows: it says nothing at all beside an option that it does not."""
    kept, skip = [], False
    for word in words:
        name = word.partition("=")[0]
        if not skip and name not in OURS:
            kept.append(word)
        skip = not skip and word in WITH_VALUE
    return kept


def read(lines: Sequence[str]) -> tuple[list[tuple[str, str]], int]:
    """Candidates and flags of cobra's protocol; nothing where the client failed."""
    flags = lines[-1][1:] if lines and lines[-1].startswith(":") else ""
    if not flags.isdecimal() or int(flags) & ERROR:
        return [], NO_FILES
    return [(value, text) for value, _, text in (line.partition("\t") for line in lines[:-1])], int(flags)


def _said(argv: list[str], environ: Mapping[str, str], guard: str) -> list[str]:
    """Return the lines that the client prints within the limit, none when it fails; its stderr goes nowhere."""
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, null, 2)]
    try:
        pid = os.posix_spawnp(argv[0], argv, {**environ, guard: "1"}, file_actions=actions)
    except OSError:
        return []
    finally:
        os.close(writer)
        os.close(null)
    text, deadline = b"", time.monotonic() + LIMIT_S
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(reader, 65536)
        if not piece:
            break
        text += piece
    else:
        os.kill(pid, signal.SIGKILL)
        text = b""
    os.close(reader)
    os.waitpid(pid, 0)
    return text.decode("utf-8", "replace").splitlines()
