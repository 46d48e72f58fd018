"""`reberth __complete WORD... FRAGMENT`: the protocol of cobra, which kubectl, podman and incus speak too.

Each candidate is a line, its description after a tab; the last line is `:` and a sum of flags. Nothing is ever written
to standard error, and no node is asked while the user waits: names come from files, and a process in the background
makes them new where they are old (reberth.complete.refresh).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from reberth.complete import words

ERROR, NO_SPACE, NO_FILES, ONLY_DIRS, KEEP_ORDER = 1, 2, 4, 16, 32
ALIASED = ("LXC_ALIASES", "INCUS_ALIASES")


def main(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
    """Print the candidates for the last argument, given those before it."""
    env = os.environ if environ is None else environ
    try:
        found = _found(list(arguments) or [""], env)
        lines = [f"{value}\t{text}" if text else value for value, text in found.candidates if _harmless(value)]
        lines.append(f":{directive(found)}")
    except Exception:
        found, lines = None, [f":{ERROR}"]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    if found and found.stale:
        from reberth.complete import refresh

        refresh.in_background(found.stale)


def _found(arguments: list[str], env: Mapping[str, str]) -> words.Answer:
    if arguments[0] == "lxd":
        from reberth.complete import client

        if client.is_alias(arguments):
            return client.answer(arguments, env)
    return words.answer(in_order(arguments, env), env)


def in_order(arguments: list[str], environ: Mapping[str, str]) -> list[str]:
    """Return the words as typed: for an alias, the clients lxc and incus put the fragment before the words that
    precede it.
    """
    if len(arguments) > 2 and any(environ.get(name) == "1" for name in ALIASED):
        return [arguments[0], *arguments[2:], arguments[1]]
    return arguments


def directive(found: words.Answer) -> int:
    """Return the flags: what the shell does with a single candidate, and whether it may offer files beside."""
    if found.flags is not None:
        return found.flags
    if found.files:
        return ONLY_DIRS if found.files == "dirs" else 0
    open_ended = bool(found.candidates) and all(value.endswith((":", "=")) for value, _ in found.candidates)
    return NO_FILES | KEEP_ORDER * found.ordered | NO_SPACE * (open_ended and not found.closed)


def _harmless(value: str) -> bool:
    """Tell whether a terminal may see it.

    Names come from other machines, and none with a control character is shown.
    """
    return value.isprintable() and "\t" not in value
