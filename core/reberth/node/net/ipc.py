"""What ties a process tree to others without a file: pipes, SysV objects, memory shared with a task."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import time
from collections.abc import Iterator

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
STRANGERS_S = 0.15  # of the processor, for what other users have
SECOND_LOOKS, SECOND_LOOK_S = 4, 0.02
# kcmp(2) has a number of its own where the kernel's old tables are used.
KCMP = {"x86_64": 312, "ppc64le": 354, "s390x": 343}.get(os.uname().machine, 272)


class Others:
    """The descriptors of processes outside a tree: of root and of the tree's users all, of strangers for a while.

    A stranger may have a million of them. What was not looked through is in `skipped`: the plan says so.
    """

    def __init__(self, pids: frozenset[int], users: set[int]) -> None:
        self._pids, self._users = pids, users | {0}
        self._left_s = STRANGERS_S
        self.skipped: set[int] = set()

    def links(self) -> Iterator[tuple[procs.Task, str, str]]:
        """Yield each descriptor: its process, its number, where it leads."""
        for task in procs.all_tasks():
            if task.pid in self._pids:
                continue
            known = procs.uids(task.pid) <= self._users
            began_s = time.thread_time()
            for name in _descriptors(task.pid):
                if not known and time.thread_time() - began_s > self._left_s:
                    self.skipped.add(task.pid)
                    break
                yield task, name, procs.link(f"/proc/{task.pid}/fd/{name}")
            if not known:
                self._left_s = max(0.0, self._left_s - (time.thread_time() - began_s))


def _descriptors(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            yield entry.name


def pipes_outside(pipes: set[str], others: Others) -> list[int]:
    """Processes outside the tree that hold an end of one of these pipes (`pipe:[INODE]`)."""
    return sorted({task.pid for task, _, link in others.links() if link in pipes}) if pipes else []


def files_outside(opened: dict[str, list[tuple[int, int]]], others: Others) -> list[str]:
    """Files that a process outside the tree has open by the very description (one offset) that the tree has.

    `opened` maps a path to the tree's (process, descriptor) that hold it.
    """
    found = set()
    libc = ctypes.CDLL(None, use_errno=True)
    for task, name, path in others.links() if opened else ():
        for pid, fd in opened.get(path, ()):
            if libc.syscall(ctypes.c_long(KCMP), pid, task.pid, KCMP_FILE, fd, int(name)) == 0:
                found.add(f"{path} with {task.comm} ({task.pid})")
    return sorted(found)


def writers(paths: set[str], others: Others) -> list[str]:
    """Return which of these files a process outside the tree has open for writing, with its name and pid."""
    found = set()
    for task, name, path in others.links() if paths else ():
        with contextlib.suppress(OSError):
            if path in paths and os.lstat(f"/proc/{task.pid}/fd/{name}").st_mode & stat.S_IWUSR:
                found.add(f"{path} by {task.comm} ({task.pid})")
    return sorted(found)


def holds(pid: int, links: set[str]) -> bool:
    """Tell whether a descriptor of the process leads to one of these, as `pipe:[7]` or `socket:[7]`."""
    return any(procs.link(f"/proc/{pid}/fd/{name}") in links for name in _descriptors(pid))


def items_of(started: dict[int, float]) -> list[str]:
    """SysV objects of this ipc namespace that one of these tasks made or used last, as `queue 3`.

    `started` maps pid to the task's start in seconds of the wall clock: an older object met another one of that pid.
    """
    found = []
    for name, key, users in USERS:
        for row in _sysv(name):
            if any(int(row[at]) + 1 >= started.get(int(row[pid]), NEVER) for pid, at in users):
                found.append(f"{WORDS[name]} {row[key]}")
    until_s, oldest = time.thread_time() + STRANGERS_S, min(started.values(), default=NEVER)
    for row in _sysv("sem"):  # a user may have 32000 sets: those that were used before the tree began are none of its
        if int(row["otime"]) + 1 < oldest or time.thread_time() > until_s:
            continue
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

    def shared() -> list[tuple[int, int]]:
        return [(a, b) for a, b in pairs if libc.syscall(ctypes.c_long(KCMP), a, b, KCMP_VM, 0, 0) == 0]

    pairs = shared()
    for _ in range(SECOND_LOOKS if pairs else 0):  # who has begun to start a program (vfork) is through in a moment
        time.sleep(SECOND_LOOK_S)
        pairs = shared()
    return [pid for pid, _ in pairs]
