"""Tools of a run that outlived the helper which started them: found in the cgroup that the helper made for them.

A pid alone may be reused, and a helper that was killed right after starting a tool journaled none. What a tool starts
is born in the tool's cgroup, and only root puts a process there or takes one out: so no process can be planted, and
none is looked at that is not the run's. Two leave it, and are known by other means: the criu that runc puts into the
container's cgroup (the target ends that cgroup as a whole), and what criu restores, which is the workload.

Where no cgroup can be made the run's id in the environment tells, of root's own processes alone: what others say of
themselves is never read. Any user may say what he likes there, as long as he likes, and let the reading take for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from reberth.node.system import procs

MARK = "REBERTH_RUN"
SEARCH_S, SEARCH_CPU_S = 2.0, 0.3  # for all of a search without a cgroup; of the processor, on a busy node too


def find(run_id: str, group: str = "") -> list[procs.Task]:
    """Return the living tools of this run, but this process: those in the cgroup `group`, or by their mark without one.

    A `group` that is not there any more holds none.
    """
    pids = _members(group) if group else _marked(run_id)
    found = (procs.task(pid) for pid in pids if pid != os.getpid())
    return [task for task in found if task is not None and task.state not in "ZX"]


def _members(group: str) -> list[int]:
    with contextlib.suppress(OSError), open(os.path.join(group, "cgroup.procs"), encoding="ascii") as lines:
        return [int(line) for line in lines]
    return []


def _marked(run_id: str) -> list[int]:
    """Return root's processes with this run's mark; a search that takes too long ends, and what it found counts."""
    found, until_s, until_cpu_s = [], time.monotonic() + SEARCH_S, time.thread_time() + SEARCH_CPU_S
    mark = f"{MARK}={run_id}".encode()
    for name in os.listdir("/proc"):
        if time.monotonic() > until_s or time.thread_time() > until_cpu_s:
            break
        if name.isdecimal() and procs.is_roots(int(name)):
            words = procs.read_some(f"/proc/{name}/environ").split(b"\0")
            if mark in words or _at_work(int(name), run_id):
                found.append(int(name))
    return found


def _at_work(pid: int, run_id: str) -> bool:
    """Tell whether it is a criu that has the run's images open: the one that runc starts overwrites its environment."""
    task = procs.task(pid)
    if task is None or task.comm != "criu" or "lazy-pages" in procs.command_line(pid):  # that feeds a copy, to its end
        return False
    with contextlib.suppress(OSError):
        names = os.listdir(f"/proc/{pid}/fd")
        return any(f"reberth-{run_id}-" in procs.link(f"/proc/{pid}/fd/{name}") for name in names)
    return False


def end(run_id: str, group: str = "", *, patience_s: float = 0.0, grace_s: float = 5.0) -> list[procs.Task]:
    """Let them end by themselves for a while, then SIGTERM (CRIU lets a source run on then), then SIGKILL.

    Return those that had to be ended; raise nothing, what survives SIGKILL sleeps in the kernel.
    """
    ended: dict[tuple[int, int], procs.Task] = {}
    for with_signal, limit_s in ((0, patience_s), (signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        told: set[tuple[int, int]] = set()
        deadline = time.monotonic() + limit_s
        while left := find(run_id, group):  # again: one that ends may have started another, as criu its script
            for task in left:
                key = (task.pid, task.start_ticks)
                if with_signal and key not in told:
                    told.add(key)
                    ended[key] = task
                    procs.send(task, with_signal)
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            break
    return list(ended.values())
