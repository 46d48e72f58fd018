"""How a fake tool runs: the node writes down its arguments, fails it where a test wants that, and calls its `main`."""

from __future__ import annotations

import runpy
import signal
import sys
from types import FrameType

from reberth.testing.machine import Machine, ToolError

# Isolated, without site: it starts in a third of the time, and a fake needs the standard library alone.
STARTER = """#!{python} -IS
import sys
sys.path.insert(0, {core!r})
from reberth.testing.tool import main
main({node!r}, {name!r}, {program!r})
"""


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main(node: str, name: str, program: str) -> None:
    """Run `main(machine, words)` of the file `program`; its answer is the exit status (None: 0)."""
    signal.signal(signal.SIGTERM, _end)
    machine, words = Machine(node), [name, *sys.argv[1:]]
    machine.record(words)
    message = machine.must_fail(words)
    if message:
        sys.stderr.write(f"{message}\n")
        sys.exit(1)
    try:
        sys.exit(runpy.run_path(program)["main"](machine, words[1:]))
    except ToolError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
