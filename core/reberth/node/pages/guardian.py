"""Watches a copy that still misses pages when its helper is gone, as a process of its own.

What CRIU's daemon holds of the copy is held beside it by processes that share its open files (`shared_table`), so a
daemon that dies leaves a copy that blocks at a missing page. Left alone (the helper's end of our standard input is
closed) this one freezes the copy once the daemon is gone, and ends those that hold once the copy is.

The helper runs the text of this file with `python3 -IS -c`, before the freeze: standard library only, nothing of ours.
Lines in: `guard DAEMON HOLDER...`, `copy CGROUP`, `release`. A line out for each: how many address spaces each holds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

POLL_S = 0.1
KIND = "anon_inode:[userfaultfd]"  # as in shared_table.py, which this text cannot import


def count(pid: int) -> int:
    """Return how many userfaultfds a process has open; 0 for one that is gone."""
    found = 0
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/%d/fd" % pid):
            with contextlib.suppress(OSError):
                found += os.readlink("/proc/%d/fd/%s" % (pid, name)) == KIND
    return found


class Guardian:
    """What the process knows: the daemon, who holds, the copy's cgroup, and whether the helper still talks to it."""

    def __init__(self) -> None:
        self.pidfd, self.cgroup, self.alone = -1, "", False
        self.holders: dict[int, int] = {}  # pid -> pidfd

    def turn(self) -> bool:
        """Listen for a moment; false when there is nothing left to watch."""
        self.hear()
        if not self.alone:
            return True
        if self.cgroup and populated(self.cgroup):
            if self.pidfd >= 0 and select.select([self.pidfd], [], [], 0)[0]:
                write(self.cgroup + "/cgroup.freeze", "1")
            return True
        if self.cgroup:  # of a copy that never ran this helper's successor takes them, when that copy is dead
            self.end_holders()
        return False

    def hear(self) -> None:
        """Take the next line, if there is one; returns a released guardian's end by leaving."""
        if self.alone:
            time.sleep(POLL_S)
            return
        if not select.select([0], [], [], POLL_S)[0]:
            return
        line = sys.stdin.readline()
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "guard":
            daemon, *holders = [int(pid) for pid in rest.split()]
            self.pidfd = os.pidfd_open(daemon)
            self.holders = {pid: os.pidfd_open(pid) for pid in holders}
        elif word == "copy":
            self.cgroup = rest
        elif word == "release":
            os._exit(0)
        self.alone = not line
        if line:
            sys.stdout.write("%d\n" % min([count(pid) for pid in self.holders] or [0]))
            sys.stdout.flush()

    def end_holders(self) -> None:
        """Nothing needs them: the copy has ended."""
        for pidfd in self.holders.values():
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def populated(cgroup: str) -> bool:
    """Tell whether any task lives in it."""
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
