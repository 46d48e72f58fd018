"""What a process tree holds, from /proc alone and without touching it: the ground for every preflight check."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reberth.node.attributes.tasks import described
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup, systemd
from reberth.node.net import ipc, loopback, netlink, sockets, unix
from reberth.node.survey import elf
from reberth.node.survey.objects import Holdings
from reberth.node.survey.written import identity, written
from reberth.node.system import procs

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


def describe(daemon: Daemon, progress: Any, pid: int) -> dict[str, Any]:
    """Tasks, files, sockets, descriptors of other kinds, namespaces and memory of a tree; raises OpError `ended`."""
    tasks = procs.tree(pid)
    if not tasks or tasks[0].state in "ZX":
        raise OpError("ended", f"there is no process {pid}")
    pids = [t.pid for t in tasks]
    found = Holdings(frozenset(pids))
    for task in tasks:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            found.add(task)
    if not procs.alive(pid, tasks[0].start_ticks):
        raise OpError("ended", f"process {pid} has ended")
    inside, outside, listening = sockets.tcp(pid, found.sockets)
    stay, bound = sockets.local(pid, found.holders)
    others = ipc.Others(frozenset(pids), found.uids)
    pipes_outside = ipc.pipes_outside(found.pipes, others)
    files = written(pids)
    for folder in unix.folders(pid, found.sockets):
        found.folder(folder)
    own = {n: procs.link(f"/proc/{pid}/ns/{n}") for n in NAMESPACES}
    ours = {n: procs.link(f"/proc/self/ns/{n}") for n in NAMESPACES}
    home = ""
    with contextlib.suppress(OpError, ProcessLookupError):
        home = cgroup.of_pid(pid)
    return {
        "pid": pid,
        "tasks": [t._asdict() for t in tasks if _there(t)],  # who has ended meanwhile needs no pid on the target
        "parents": [t.comm for t in map(procs.task, procs.ancestors(tasks[0].ppid, 1)) if t],
        "uids": sorted(found.uids),
        "exe": procs.link(f"/proc/{pid}/exe"),
        "cwd": procs.link(f"/proc/{pid}/cwd"),
        "root": procs.link(f"/proc/{pid}/root"),
        "memory_bytes": sum(procs.memory_bytes(t.pid) for t in tasks),
        "files": list(found.files.values()),
        "written": [
            {"path": one.path, "size": one.found.st_size, "network": one.network, **identity(one)} for one in files
        ],
        **described(pids),
        "written_outside": ipc.writers({one.path for one in files}, others),
        "deleted": sorted(found.deleted),
        "anon": found.anon,
        "devices": sorted(found.devices),
        "terminals": sorted(found.terminals),
        "hugetlb": found.hugetlb,
        "tcp": {
            "inside": inside,
            "outside": outside,
            "listening": listening,
            "unaccepted": sockets.unaccepted(pid, found.sockets),
            "stay": stay,
        },
        "bound": bound,
        "protocols": found.protocols,
        "abstract": unix.abstract(pid, found.sockets),
        "unix_outside": unix.outside(pid, found.sockets),
        "unix_unaccepted": unix.unaccepted(pid, found.sockets),
        "links": sorted(loopback.inside(pid, netlink.links) or ()),
        "namespaces": own,
        "helper_namespaces": ours,
        "nested": _nested(pids, own),
        "cgroup": home,
        "unit": systemd.of_tree(pids),
        "traced_by": found.tracers,
        "loopback_up": loopback.is_up(pid),
        "outside_mounts": sorted(found.outside),
        "mqueues": sorted(found.mqueues),
        "pipes": sorted(found.pipes),
        "shared_locks": sorted(found.shared_locks),
        "pipes_outside": pipes_outside,
        "files_outside": ipc.files_outside(found.opened, others),
        "not_looked_at": sorted(others.skipped),
        "sysv_shm": found.sysv_shm,
        "sysv_items": ipc.items_of({t.pid: procs.started_s(t) for t in tasks}) if own["ipc"] == ours["ipc"] else [],
        "shared_vm": ipc.shared_memory([(t.pid, t.ppid) for t in tasks]),
        "ghosts": found.ghosts,
        "linked": sorted(found.linked),
        "linked_found": sorted({one.deleted for one in files if one.deleted}),
        "watches": sorted(found.watches),
        "pidfds": sorted(found.pidfds),
        "masters": sorted(found.masters),
        "slaves": sorted(found.slaves),
        "schedulers": sorted(found.schedulers),
        "dead_leaders": found.dead_leaders,
        "confined": sorted(found.confined),
        "frozen": bool(home) and cgroup.is_asked_to_freeze(home),
    }


def _there(task: procs.Task) -> bool:
    now = procs.task(task.pid)
    return now is not None and now.start_ticks == task.start_ticks


def _nested(pids: list[int], own: dict[str, str]) -> list[str]:
    """Namespaces in which a task is, or its children would be, and the root task is not, as `kind of TID`."""
    kinds = {**{name: name for name in NAMESPACES}, "time_for_children": "time"}
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            for tid in os.listdir(f"/proc/{pid}/task"):
                links = ((kind, procs.link(f"/proc/{pid}/task/{tid}/ns/{name}")) for name, kind in kinds.items())
                found += [f"{kind} of {tid}" for kind, there in links if there and there != own[kind]]
    return sorted(set(found))


def taken(daemon: Daemon, progress: Any) -> dict[str, list[str]]:
    """Return what is listened on here, TCP addresses and names of unix sockets without a file, and what can be
    bound to.
    """
    mine = os.getpid()
    return {
        "tcp": sockets.listening(mine),
        "abstract": unix.abstract(mine),
        **sockets.addresses(),
    }


def compare_files(daemon: Daemon, progress: Any, files: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return which of these files CRIU would not accept here: missing, another type, mode, size or build-id."""
    problems: list[dict[str, str]] = []
    for wanted in files:
        try:
            # A descriptor may be of a symbolic link itself (O_PATH, O_NOFOLLOW): that one must be there, not its end.
            entry = (os.lstat if stat.S_ISLNK(wanted["mode"]) else os.stat)(wanted["path"])
        except OSError as error:
            problems.append({"path": wanted["path"], "problem": error.strerror or "missing"})
            continue
        if entry.st_mode != wanted["mode"]:
            text = f"mode {stat.filemode(entry.st_mode)}, not {stat.filemode(wanted['mode'])}"
            problems.append({"path": wanted["path"], "problem": text})
        elif stat.S_ISREG(entry.st_mode) and entry.st_size != wanted["size"]:
            problems.append({"path": wanted["path"], "problem": f"size {entry.st_size}, not {wanted['size']}"})
        elif wanted.get("build_id") and elf.build_id(wanted["path"]) != wanted["build_id"]:
            problems.append({"path": wanted["path"], "problem": f"another build-id than {wanted['build_id'][:12]}"})
    return problems


def processes(daemon: Daemon, progress: Any) -> list[dict[str, Any]]:
    """Trees that could be moved: leaders of a session without a terminal, but pid 1, its kin and this helper."""
    tasks = {t.pid: t for t in procs.all_tasks()}
    mine = set(procs.ancestors(os.getpid(), 1))
    here = procs.link("/proc/self/ns/pid")
    found = []
    for task in tasks.values():
        kernel = task.pid == 2 or task.ppid == 2
        if task.pid != task.sid or task.tty or kernel or task.pid == 1 or task.pid in mine or task.state == "Z":
            continue
        if procs.link(f"/proc/{task.pid}/ns/pid") != here:
            continue  # inside a container: its runtime's backend lists it
        found.append(
            {
                "pid": task.pid,
                "comm": task.comm,
                "state": task.state,
                "start_ticks": task.start_ticks,
                "memory_bytes": procs.memory_bytes(task.pid),
            }
        )
    return found


OPS: dict[str, Callable[..., Any]] = {
    "describe": describe,
    "taken": taken,
    "compare_files": compare_files,
    "processes": processes,
}
