"""Freezes a workload the moment the CRIU that dumps it dies: its sockets are in repair mode and fail their users.

CRIU needs the tasks thawed while it works in them, so they wake when it is killed. What they touch before they are
frozen again is lost; this thread sleeps on CRIU's pidfd and writes one word into one file, which takes well under a
millisecond, where the tool's own end (runc's in particular) is heard of much later.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading

from reberth.node.freeze import cgroup
from reberth.node.system import procs


class Guard:
    """Watches one CRIU until `off`."""

    def __init__(self, fence: str, pid: int) -> None:
        self.fence, self.off_now = fence, False
        self.lock = threading.Lock()
        self.pidfd = os.pidfd_open(pid)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll()
        with self.lock:
            if not self.off_now:
                with contextlib.suppress(OSError):
                    cgroup.ask_freeze(self.fence)
        os.close(self.pidfd)

    def off(self) -> None:
        """From now on its end is nothing to act on: nothing is frozen after this returns."""
        with self.lock:
            self.off_now = True


def of_script(fence: str, script_pid: int) -> Guard | None:
    """Return a guard over the CRIU that runs this action script; None when there is none any more."""
    for pid in procs.ancestors(script_pid, os.getpid()):
        task = procs.task(pid)
        if task is not None and task.comm == "criu":
            with contextlib.suppress(OSError):
                return Guard(fence, pid)
    return None
