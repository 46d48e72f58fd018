"""A process tree gets a cgroup of its own, while it runs and starts processes all the time.

What is read of /proc is old at once. A process that ends between two looks means "gone, look on"; one that is born is
born in its parent's cgroup. So the tree is inside as soon as one look at all of it finds nothing outside, however many
children come and go in there.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.runs.run import Run, open_runs
from reberth.node.system import procs

ENCLOSE_S = 5.0


def enclose(run: Run, pid: int) -> str:
    """Move a process tree into a cgroup of its own, as its present one may hold others (sshd, this helper).

    A child of its present cgroup keeps the limits it has; a `reberth-` cgroup of an earlier move is left for a
    new one beside it. Return the new cgroup. Raise OpError `self`, `busy`, `ended`, or `fence` for a tree of which
    something is outside after `ENCLOSE_S`.
    """
    home = _home(pid)
    for task in procs.tree(pid):
        if task.pid == os.getpid():
            raise OpError("self", f"process {pid} is an ancestor of this helper: freezing it would stop both")
        other = os.path.basename(_group(task)).partition("reberth-")[2]
        if other and other != run.id and other in open_runs():
            raise OpError("busy", f"process {task.pid} is part of run {other}")
    earlier = os.path.basename(home).startswith("reberth-")
    path = os.path.join(os.path.dirname(home) if earlier else home, f"reberth-{run.id}")
    run.push_undo("abort", "cgroup_home", path=path, to=home)
    run.push_undo("commit", "cgroup_remove", path=path)
    if earlier:
        run.push_undo("commit", "cgroup_remove", path=home)
    cgroup.sweep(os.path.dirname(path), open_runs, keep=home)
    cgroup.create(path)
    _take_in(pid, path)
    run.journal.write("enclosed", cgroup=path, home=home)
    return path


def _home(pid: int) -> str:
    try:
        return cgroup.of_pid(pid)
    except ProcessLookupError as error:
        raise OpError("ended", f"process {pid} has ended") from error


def _group(task: procs.Task) -> str:
    """Return the cgroup of this very process, an empty string when it is gone: its pid may be another's by now."""
    with contextlib.suppress(ProcessLookupError):
        found = cgroup.of_pid(task.pid)
        if procs.alive(task.pid, task.start_ticks):
            return found
    return ""


def outside(pid: int, path: str) -> list[procs.Task]:
    """Return what of a tree runs outside a cgroup, by one look; a zombie, which cannot be moved, does not run."""
    groups = ((task, _group(task)) for task in procs.tree(pid) if task.state not in "ZX")
    return [task for task, group in groups if group and not cgroup.inside(group, path)]


def _take_in(pid: int, path: str) -> None:
    until_s = time.monotonic() + ENCLOSE_S
    while left := outside(pid, path):
        if time.monotonic() > until_s:
            found = ", ".join(f"{task.pid} ({task.comm})" for task in left[:4])
            text = f"processes of the workload are outside its cgroup after {ENCLOSE_S:g} s: {found}"
            raise OpError("fence", text, hint="does something else move them back, or start them from outside?")
        for task in left:
            cgroup.enter(path, task.pid)


def check_fence(root_pid: int, path: str) -> None:
    """Raise OpError `fence` unless a cgroup holds the whole tree and not us: what is inside stops, the rest runs on."""
    if cgroup.inside(cgroup.of_pid(os.getpid()), path):
        raise OpError("fence", f"this helper runs in the workload's cgroup {path}")
    for task in outside(root_pid, path):
        raise OpError("fence", f"process {task.pid} ({task.comm}) is outside the workload's cgroup {path}")


def enclosed(run: Run, pid: int) -> dict[str, Any]:
    """Enclose a tree; answer the cgroup and the processes in it."""
    path = enclose(run, pid)
    return {"cgroup": path, "pids": cgroup.pids(path)}
