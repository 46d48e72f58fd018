"""Start one of the programs in a session of its own: `python3 -S -B -m doubtful KIND PLACE`, prints its pid.

With a third word, `here`, it is this very process: the first one of a container.

PLACE is a folder for its files, with a file `beats` of eight bytes. The program writes `ready` there when its state
stands, or `error` with the reason; then it counts in `beats`, by which one sees that it runs.
"""

from __future__ import annotations

import os
import sys
import time
import traceback

import doubtful.files
import doubtful.sockets
import doubtful.tasks  # noqa: F401
from doubtful.base import STATES

PAUSE_S = 0.02


def main(kind: str, place: str, where: str = "") -> None:
    """Fork, answer the child's pid, and be the program there."""
    os.chdir("/")
    if where == "here":
        quiet()
        run(kind, place)
    outside = STATES[kind].keeps_session  # then the leader of its session stays outside the tree
    if outside:
        if os.fork():
            return
        os.setsid()
    child = os.fork()
    if child:
        print(child, flush=True)
        if outside:
            quiet()
            time.sleep(600)
        return
    if not outside:
        os.setsid()
    quiet()
    run(kind, place)


def quiet() -> None:
    """No stream leads anywhere."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)


def note(place: str, name: str, text: str) -> None:
    """Write a file of which a reader sees nothing or all."""
    with open(f"{place}/.new", "w") as file:
        file.write(text)
    os.rename(f"{place}/.new", f"{place}/{name}")


def run(kind: str, place: str) -> None:
    """Make the state and keep it for ever."""
    try:
        kept = STATES[kind].make(place)
    except BaseException:
        note(place, "error", traceback.format_exc())
        raise
    note(place, "ready", str(os.getpid()))
    while kept is not STATES:  # always: it must only stay referenced
        os.utime(f"{place}/beats")  # by its name: what is open for writing must be the same on both nodes
        time.sleep(PAUSE_S)


main(*sys.argv[1:])
