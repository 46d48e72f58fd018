"""What ties a process tree to others without a file: pipes, SysV objects, memory shared with a task."""

from __future__ import annotations

import contextlib
import ctypes
import os

from reberth.node.system import procs

WORDS = {"msg": "queue", "shm": "segment"}
# Columns of /proc/sysvipc: who did something last, and when.
USERS = (
    ("msg", "msqid", (("lspid", "stime"), ("lrpid", "rtime"))),
    ("shm", "shmid", (("cpid", "ctime"), ("lpid", "atime"), ("lpid", "dtime"))),
)
NEVER = float("inf")
GETPID = 11  # semctl(2): the process that did the last operation
KCMP_FILE, KCMP_VM = 0, 1
# kcmp(2) has a number of its own where the kernel's old tables are used.
KCMP = {"x86_64": 312, "ppc64le": 354, "s390x": 343}.get(os.uname().machine, 272)


def pipes_outside(pipes: set[str], pids: frozenset[int]) -> list[int]:
    """Processes outside the tree that hold an end of one of these pipes (`pipe:[INODE]`)."""
    found = []
    if pipes:
        for task in procs.all_tasks():
            if task.pid not in pids and holds(task.pid, pipes):
                found.append(task.pid)
    return found


def files_outside(opened: dict[str, list[tuple[int, int]]], pids: frozenset[int]) -> list[str]:
    """Files that a process outside the tree has open by the very description (one offset) that the tree has.

    `opened` maps a path to the tree's (process, descriptor) that hold it.
    """
    found = set()
    libc = ctypes.CDLL(None, use_errno=True)
    for task in procs.all_tasks() if opened else ():
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{task.pid}/fd") if task.pid not in pids else ():
                path = procs.link(f"/proc/{task.pid}/fd/{name}")
                for pid, fd in opened.get(path, ()):
                    if libc.syscall(ctypes.c_long(KCMP), pid, task.pid, KCMP_FILE, fd, int(name)) == 0:
                        found.add(f"{path} with {task.comm} ({task.pid})")
    return sorted(found)


def holds(pid: int, links: set[str]) -> bool:
    """Whether a descriptor of the process leads to one of these, as `pipe:[7]` or `socket:[7]`."""
    with contextlib.suppress(OSError):
        return any(procs.link(f"/proc/{pid}/fd/{name}") in links for name in os.listdir(f"/proc/{pid}/fd"))
    return False


def items_of(started: dict[int, float]) -> list[str]:
    """SysV objects of this ipc namespace that one of these tasks made or used last, as `queue 3`.

    `started` maps pid to the task's start in seconds of the wall clock: an older object met another one of that pid.
    """
    found = []
    for name, key, users in USERS:
        for row in _sysv(name):
            if any(int(row[at]) + 1 >= started.get(int(row[pid]), NEVER) for pid, at in users):
                found.append(f"{WORDS[name]} {row[key]}")
    for row in _sysv("sem"):
        last = {_last_user(int(row["semid"]), number) for number in range(min(int(row["nsems"]), 256))}
        if any(int(row["otime"]) + 1 >= started.get(pid, NEVER) for pid in last):
            found.append(f"semaphores {row['semid']}")
    return found


def _sysv(name: str) -> list[dict[str, str]]:
    with contextlib.suppress(OSError), open(f"/proc/sysvipc/{name}", encoding="ascii") as lines:
        head, *rows = [line.split() for line in lines]
        return [dict(zip(head, row)) for row in rows]
    return []


def _last_user(semaphores: int, number: int) -> int:
    return int(ctypes.CDLL(None, use_errno=True).semctl(semaphores, number, GETPID))


def shared_memory(kin: list[tuple[int, int]]) -> list[int]:
    """Tasks that share their whole memory with their parent (clone with CLONE_VM), from pairs of pid and parent."""
    libc = ctypes.CDLL(None, use_errno=True)
    known = {pid for pid, _ in kin}
    pairs = [(pid, parent) for pid, parent in kin if parent in known]
    return [pid for pid, parent in pairs if libc.syscall(ctypes.c_long(KCMP), pid, parent, KCMP_VM, 0, 0) == 0]
