"""How a fake tool runs: the node writes down its arguments, fails it where a test wants that, and calls its `main`.

What is only asked and answers at once runs in the test's own process; what is held runs as a program, as in real life.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from reberth.testing.machine import Machine, ToolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# Isolated, without site: it starts in a third of the time, and a fake needs the standard library alone.
STARTER = """{first_line}
import sys
sys.path.insert(0, {core!r})
from reberth.testing.tool import main
main({node!r}, {name!r}, {program!r})
"""


def first_line(python: str, *options: str) -> str:
    """The beginning of a program for this Python; the kernel takes no blank in the path, nor a long one."""
    direct = " ".join(["#!" + python, *options])
    if " " not in python and len(direct) < 120:
        return direct
    words = " ".join(f'"{word}"' for word in (python, *options))
    return f'#!/bin/sh\n"exec" {words} "$0" "$@"'


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _leave_nothing(machine: Machine, words: list[str]) -> None:
    """Leave what most tools leave when they fail."""


def perform(machine: Machine, name: str, words: list[str], program: str) -> tuple[int, str, str]:
    """Run `main(machine, words)` of the file `program`; answers exit status, standard output and error.

    Where a test wants it to fail, its `fail(machine, words)` leaves what the real one leaves then.
    """
    machine.record([name, *words])
    machine.tool, machine.said = name, []
    code = compile(Path(program).read_text(encoding="utf-8"), program, "exec")
    known: dict[str, Any] = {"__name__": "fake_tool", "__file__": program}
    exec(code, known)
    message = machine.must_fail(words)
    if message:
        known.get("fail", _leave_nothing)(machine, words)
        return 1, "", f"{message}\n"
    try:
        status = known["main"](machine, words)
    except ToolError as error:
        return 1, "".join(machine.said), f"{error}\n"
    return status or 0, "".join(machine.said), ""


def main(node: str, name: str, program: str) -> None:
    """The same as a program of its own."""
    signal.signal(signal.SIGTERM, _end)
    status, out, error = perform(Machine(node), name, sys.argv[1:], program)
    sys.stdout.write(out)
    sys.stderr.write(error)
    sys.exit(status)
