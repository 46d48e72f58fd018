"""Processes and threads by the number that they have on both nodes: the one in their own pid namespace."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from reberth.node.system import procs

_MOST_BYTES = 1 << 20  # a list of 65536 groups comes before the line that is wanted


def own_number(path: str) -> int:
    """Return a task's number in its innermost pid namespace, by its directory in /proc; 0 when it is gone."""
    for line in procs.read_some(f"{path}/status", _MOST_BYTES).splitlines():
        if line.startswith(b"NSpid:"):
            return int(line.split()[-1])
    return 0


def processes(pids: Iterable[int]) -> dict[int, int]:
    """Map each process's own number to its pid here."""
    found = {own_number(f"/proc/{pid}"): pid for pid in pids}
    found.pop(0, None)
    return found


def threads(pid: int) -> Iterator[tuple[int, int]]:
    """Yield each thread of a process: its own number, and its id here."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task"):
            number = own_number(f"/proc/{pid}/task/{name}")
            if number:
                yield number, int(name)


def descriptors(pid: int, kind: str) -> Iterator[int]:
    """Yield the descriptors of a process whose link begins with `kind` (`socket:[`)."""
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            if procs.link(f"/proc/{pid}/fd/{name}").startswith(kind):
                yield int(name)


@contextlib.contextmanager
def borrowed(pid: int, number: int) -> Iterator[int]:
    """Give a copy of a process's descriptor for a while; raise OSError when it cannot be had."""
    copy = procs.copy_of(pid, number)
    try:
        yield copy
    finally:
        os.close(copy)
