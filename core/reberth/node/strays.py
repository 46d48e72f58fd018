"""Tools of a run that outlived the helper which started them: found by the run's id in their environment.

A pid alone may be reused, and a helper that was killed right after starting a tool journaled none. The mark is in the
environment of criu and runc, and of what they start until that is another program; a restored task has its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from reberth.node import procs

MARK = "REBERTH_RUN"


def find(run_id: str) -> list[procs.Task]:
    """The living processes that carry this run's mark, parents before their children where that is known."""
    wanted = f"{MARK}={run_id}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as environ:
                if wanted in environ.read().split(b"\0"):
                    task = procs.task(int(name))
                    if task is not None and task.state not in "ZX":
                        found.append(task)
    return found


def end(run_id: str, *, patience_s: float = 0.0, grace_s: float = 5.0) -> list[procs.Task]:
    """Let them end by themselves for a while, then SIGTERM (CRIU lets a source run on then), then SIGKILL.

    Answers those that had to be ended; raises nothing, what survives SIGKILL sleeps in the kernel.
    """
    ended: dict[tuple[int, int], procs.Task] = {}
    for with_signal, limit_s in ((0, patience_s), (signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        left = find(run_id)
        if with_signal:
            for task in left:
                ended[task.pid, task.start_ticks] = task
                with contextlib.suppress(ProcessLookupError):
                    os.kill(task.pid, with_signal)
        deadline = time.monotonic() + limit_s
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
            left = [task for task in left if procs.alive(task.pid, task.start_ticks)]
        if not left:
            break
    return list(ended.values())
