"""What is really there of a run whose journal this node has lost: its cgroups, and what their tasks do.

A journal that is gone proves nothing. The cgroup of a run carries the run's id in its name, and the controller names
those that it has seen. Nothing is ended or let run here but on the controller's word, which needs the operator's.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from reberth.node.criu import network_lock, tcp_repair
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.runs.run import locks_of_others
from reberth.node.system import orphans, procs

SHOWN = 16  # pids that are named
ORDER = ("running", "held", "frozen")  # the first that fits one cgroup is what the run is said to do


def look(run_id: str, cgroups: list[str]) -> dict[str, Any]:
    """Return what the run's tasks do (`remains`: running, held, frozen or empty), where, how many, and which."""
    found = [_one(path) for path in _places(run_id, cgroups)]
    found = [one for one in found if one["tasks"]]
    worst = min(found, key=lambda one: ORDER.index(one["remains"]), default=None)
    return worst or {"remains": "", "cgroup": "", "tasks": 0, "pids": []}


def settle(run_id: str, cgroups: list[str], how: str) -> dict[str, Any]:
    """`kill` or `thaw` what is there; returns what is there then.

    Tools of the run are ended first: a criu that is told to stop lets go of the tasks, which stay frozen. Connections
    that it left in repair mode are made to work before a thaw.
    """
    if how not in ("kill", "thaw"):
        raise OpError("bad-argument", f"tasks can be killed or thawed, not {how!r}")
    places = _places(run_id, cgroups)
    if how == "kill":
        for path in places:
            if not cgroup.kill(path):
                raise OpError("leftover", f"tasks in {path} survived", hint="recover again when they have ended")
    orphans.end(run_id)
    for path in places:
        if how == "thaw":
            _heal(run_id, cgroup.pids(path))
            cgroup.thaw(path)
        else:
            cgroup.remove(path)
    return look(run_id, cgroups)


def _heal(run_id: str, pids: list[int]) -> None:
    """As `Source._heal`, for what can be told without its journal."""
    if not pids:
        return
    tcp_repair.sockets(pids)
    with contextlib.suppress(OpError, OSError):
        known = network_lock.tables(pids[0]) - locks_of_others(run_id)
        for name in network_lock.of_connections(known, tcp_repair.connections(pids), pids[0]):
            network_lock.delete(name, pids[0])


def _places(run_id: str, cgroups: list[str]) -> list[str]:
    """Return the cgroups of the run that exist: those named by the controller, and each that has the run's name."""
    mount, name = cgroup.mount_point(), f"reberth-{run_id}"
    if not mount:
        return []
    found = {os.path.normpath(path) for path in cgroups if path}
    found = {path for path in found if path != mount and cgroup.inside(path, mount) and os.path.isdir(path)}
    for directory, names, _ in os.walk(mount):
        if name in names:
            found.add(os.path.join(directory, name))
    mine = cgroup.of_pid(os.getpid())
    return sorted(path for path in found if not cgroup.inside(mine, path))


def _one(path: str) -> dict[str, Any]:
    pids = [pid for pid in cgroup.pids(path) if procs.alive(pid)]
    if cgroup.is_asked_to_freeze(path):
        remains = "frozen"
    else:
        remains = "held" if any(_is_held(pid) for pid in pids) else "running"
    return {"remains": remains, "cgroup": path, "tasks": len(pids), "pids": pids[:SHOWN]}


def _is_held(pid: int) -> bool:
    """Tell whether a criu traces this task, or is above it: then it was never let go."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("TracerPid:") and int(line.split()[1]):
                return True
    above = (procs.task(one) for one in procs.ancestors(pid, 1))
    return any(task is not None and task.comm == "criu" for task in above)
