"""Makes a freeze one that CRIU can work with: no task may wait in vfork(2) for a child that is frozen too.

The kernel counts such a task as frozen, but it sleeps without listening (state D) until its child has called execve(2)
or ended, and a frozen child does neither. CRIU then waits for 10 s and fails: "Unseizable non-zombie N found, state D".
Shells (dash since 0.5.11) and posix_spawn(3) use vfork for each program that they start, so a workload with
short-lived children is found like that by every second freeze. Thawed for a moment it goes on, and is frozen anew.
"""

from __future__ import annotations

import contextlib
import os
import time

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.system import procs

LIMIT_S, FIRST_S, LONGEST_S = 2.0, 0.001, 0.02


def settle(path: str, limit_s: float = LIMIT_S) -> int:
    """Thaw and freeze a frozen cgroup until no task in it waits in vfork; return how often that was.

    Raise OpError `freeze` when there is always one.
    """
    until_s, rest_s, times = time.monotonic() + limit_s, FIRST_S, 0
    while (found := unsettled(path)) is not None:
        task, state = found
        if time.monotonic() > until_s:
            if state == "R":
                break
            text = f"process {task.pid} ({task.comm}) waits for a child that it has begun to start"
            raise OpError("freeze", text, hint="vfork(2) is not over within the limit: try again")
        if state == "D":
            cgroup.thaw(path)
        time.sleep(rest_s)
        if state == "D":
            cgroup.freeze(path)
            times, rest_s = times + 1, min(2 * rest_s, LONGEST_S)
    return times


def unsettled(path: str) -> tuple[procs.Task, str] | None:
    """Return a task of a frozen cgroup that waits in vfork (D), or is about to stop or to wait (R); None without one.

    The kernel counts a task as frozen a moment before it sleeps. Only a process that has a child in the cgroup can wait
    in vfork: of all others no thread is looked at, which takes time while the workload stands still.
    """
    tasks = [task for task in map(procs.task, cgroup.pids(path)) if task is not None]
    parents = {task.ppid for task in tasks}
    states = ((task, _states(task)) for task in tasks if task.pid in parents)
    return next(((task, letter) for task, letters in states for letter in "DR" if letter in letters), None)


def _states(task: procs.Task) -> set[str]:
    if task.threads == 1:
        return {task.state}
    with contextlib.suppress(OSError):
        return {procs.state(f"/proc/{task.pid}/task/{tid}") for tid in os.listdir(f"/proc/{task.pid}/task")}
    return set()
