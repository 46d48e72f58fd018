"""Holds copies of the userfaultfds of a copy that still misses pages, as a process of its own.

When a userfaultfd loses its last holder, missing pages read as zeros. CRIU's daemon, the helper and this process each
hold every one of them, so whichever of the three is killed, the copy blocks at a missing page instead. Left alone (the
helper's end of our standard input is closed) it freezes the copy once the daemon is gone, and holds until the copy is.

The helper runs the text of this file with `python3 -IS -c`, before the freeze: standard library only, nothing of ours.
Lines in: `guard PID`, `copy CGROUP`, `release`. A line out for each: how many descriptors are held.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import sys
import time

SYS_PIDFD_GETFD = 438  # as in system/procs.py, which this text cannot import
POLL_S, REST = 0.01, 20


def copy_new(pidfd: int, pid: int, held: dict[int, int]) -> None:
    """Copy every userfaultfd of a process that is not in `held` (its descriptor -> ours); OSError when one cannot be.

    A descriptor that the process has closed, and whose number means another one now, is no harm: ours lives on.
    """
    for name in os.listdir("/proc/%d/fd" % pid):
        number = int(name)
        if number in held:
            continue
        try:
            kind = os.readlink("/proc/%d/fd/%s" % (pid, name))
        except OSError:
            continue
        if kind == "anon_inode:[userfaultfd]":
            copy = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
            if copy < 0:
                raise OSError(ctypes.get_errno(), "a userfaultfd cannot be guarded")
            held[number] = copy


class Guardian:
    """What the process knows: the daemon, the copy's cgroup, the descriptors, and whether anybody still talks to it."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.pid, self.pidfd, self.cgroup, self.alone = 0, -1, "", False
        self.rest_s = POLL_S

    def turn(self) -> bool:
        """Listen for a moment, look for new descriptors; false when there is nothing left to hold."""
        self.hear()
        gone = self.look()
        if self.alone and gone and self.cgroup:
            write(self.cgroup + "/cgroup.freeze", "1")
        return bool(not self.alone or (self.cgroup and populated(self.cgroup)))

    def hear(self) -> None:
        """Take the next line, if there is one; answers a released guardian's end by leaving."""
        if self.alone:
            time.sleep(self.rest_s)
            return
        if not select.select([0], [], [], self.rest_s)[0]:
            return
        line = sys.stdin.readline()
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "guard":
            self.pid = int(rest)
            self.pidfd = os.pidfd_open(self.pid)
        elif word == "copy":
            self.cgroup = rest
        elif word == "release":
            os._exit(0)
        self.look()
        self.alone = not line
        if line:
            sys.stdout.write("%d\n" % len(self.held))
            sys.stdout.flush()

    def look(self) -> bool:
        """Hold what the daemon has been given since; true when it is gone."""
        if self.pidfd < 0:
            return False
        began_s = time.monotonic()
        with contextlib.suppress(OSError):
            copy_new(self.pidfd, self.pid, self.held)
        self.rest_s = max(POLL_S, REST * (time.monotonic() - began_s))  # a slow node has better use for its processor
        return bool(select.select([self.pidfd], [], [], 0)[0])


def populated(cgroup: str) -> bool:
    """Whether any task lives in it."""
    try:
        with open(cgroup + "/cgroup.events") as lines:
            return "populated 1" in lines.read()
    except OSError:
        return False


def write(path: str, text: str) -> None:
    """Write to a file of the kernel's; a cgroup that is gone is no error."""
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError:
        pass


if __name__ == "__main__":
    guardian = Guardian()
    while guardian.turn():
        pass
