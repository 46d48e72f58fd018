"""Tools of a run that outlived the helper which started them: found by the run's id in their environment.

A pid alone may be reused, and a helper that was killed right after starting a tool journaled none. The mark is in the
environment of criu and runc, and of what they start until that is another program; a restored task has its own. The
criu that runc starts (`criu swrk`) writes its title over its environment ("criu: dump --rpc", seen with 4.2.1): it is
known by what it has open, the run's images and logs, whose names have the run's id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from reberth.node.system import procs

MARK = "REBERTH_RUN"


def find(run_id: str) -> list[procs.Task]:
    """The living processes that carry this run's mark, parents before their children where that is known."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            task = procs.task(int(name))
            if task is not None and task.state not in "ZX" and (_marked(name, run_id) or _at_work(task, run_id)):
                found.append(task)
    return found


def _marked(name: str, run_id: str) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as environ:
        return f"{MARK}={run_id}".encode() in environ.read().split(b"\0")
    return False


def _at_work(task: procs.Task, run_id: str) -> bool:
    if task.comm == "criu" and "lazy-pages" not in procs.command_line(task.pid):  # that feeds a copy, to its end
        with contextlib.suppress(OSError):
            for name in os.listdir(place := f"/proc/{task.pid}/fd"):
                with contextlib.suppress(OSError):
                    if f"reberth-{run_id}-" in os.readlink(f"{place}/{name}"):
                        return True
    return False


def end(run_id: str, *, patience_s: float = 0.0, grace_s: float = 5.0) -> list[procs.Task]:
    """Let them end by themselves for a while, then SIGTERM (CRIU lets a source run on then), then SIGKILL.

    Answers those that had to be ended; raises nothing, what survives SIGKILL sleeps in the kernel.
    """
    ended: dict[tuple[int, int], procs.Task] = {}
    for with_signal, limit_s in ((0, patience_s), (signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        told: set[tuple[int, int]] = set()
        deadline = time.monotonic() + limit_s
        while left := find(run_id):  # again: one that ends may have started another, as criu its script
            for task in left:
                key = (task.pid, task.start_ticks)
                if with_signal and key not in told:
                    told.add(key)
                    ended[key] = task
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(task.pid, with_signal)
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            break
    return list(ended.values())
