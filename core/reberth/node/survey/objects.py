"""What the tasks of one tree hold, task by task: files, descriptors of every kind, terminals, schedulers."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import stat
import time
from typing import Any

from reberth.node.errors import OpError
from reberth.node.net import sockets
from reberth.node.survey import elf
from reberth.node.system import procs

# Not files of any filesystem that a mount shows, and known to CRIU under these names.
SHARED_MEMORY = "/dev/zero (deleted)"  # shared memory without a name, also behind a descriptor (map_files)
NAMELESS = ("/memfd:", SHARED_MEMORY, "/SYSV", "/anon_hugepage")
MQUEUE_MAGIC = 0x19800202  # linux/magic.h
MEM_MAJOR, TTY_MAJORS = 1, (4, 5, 136)  # /dev/null, zero, full, random and urandom are known to CRIU everywhere
PTMX = (5, 2)
# SCHED_NORMAL, FIFO, RR, BATCH and IDLE; CRIU restores no other (sched(7)).
KNOWN_SCHEDULERS = (0, 1, 2, 3, 5)
# Types of file systems that two nodes may share, as mountinfo names them (the beginning of the name).
NETWORK_FILESYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "ceph",
    "9p",
    "fuse",
    "gfs",
    "ocfs",
    "lustre",
    "gluster",
    "virtiofs",
    "afs",
)
# What a tree may hold and be described: the kernel lets a process map 65530 files and open a million.
HEAD_BYTES = 256
MOST_THINGS, LOOK_CPU_S = 50_000, 20.0
SCHEDULERS = {6: "SCHED_DEADLINE", 7: "SCHED_EXT"}


class Holdings:
    """What is gathered over all tasks of a tree; `pids` are these tasks."""

    def __init__(self, pids: frozenset[int]) -> None:
        self.pids = pids
        self.files: dict[str, dict[str, Any]] = {}
        self.shared_locks: set[str] = set()
        self.mounts: dict[str, str] = {}  # of all tasks: one that has changed its root sees fewer of them
        self.opened: dict[str, list[tuple[int, int]]] = {}  # files with an offset: (process, descriptor)
        self.deleted: set[str] = set()
        self.ghosts: dict[str, int] = {}  # deleted files without any name left: bytes on disk
        self.linked: set[str] = set()  # deleted names of files that have another name
        self.anon: dict[str, int] = {}
        self.devices: set[str] = set()
        self.terminals: set[str] = set()
        self.masters: set[int] = set()  # numbers of the pseudo terminals whose controlling end is held
        self.slaves: set[int] = set()
        self.sockets: set[str] = set()
        self.holders: dict[str, int] = {}  # of each socket, by its inode: a process that has it
        self.mqueues: set[str] = set()
        self.protocols: dict[str, int] = {}
        self.uids: set[int] = set()
        self.tracers: list[int] = []
        self.hugetlb = False
        self.sysv_shm = False
        self.outside: set[str] = set()
        self.pipes: set[str] = set()
        self.watches: set[str] = set()  # inotify watches that CRIU cannot find again by a file handle
        self.pidfds: set[int] = set()  # pids outside the tree
        self.schedulers: set[str] = set()
        self.dead_leaders: list[int] = []
        self.confined: set[str] = set()
        self._until_s = time.thread_time() + LOOK_CPU_S

    def add(self, task: procs.Task) -> None:
        """Look at one process."""
        base = f"/proc/{task.pid}"
        if task.state in "ZX" and task.threads > 1:
            self.dead_leaders.append(task.pid)
        with open(f"{base}/status", encoding="utf-8", errors="replace") as lines:
            words = {line.split(":")[0]: line.split(":")[1].split() for line in lines if ":" in line}
        self.uids.update(int(u) for u in words.get("Uid", ["0"]))
        if words.get("TracerPid", ["0"])[0] != "0":
            self.tracers.append(task.pid)
        if task.tty and os.major(task.tty) == TTY_MAJORS[2]:
            self.slaves.add(os.minor(task.tty))
        self._threads(base)
        self._profile(base)
        for name in ("exe", "cwd"):
            self._file(f"{base}/{name}", name)
        for name in os.listdir(f"{base}/map_files"):
            self._mapping(f"{base}/map_files/{name}")
            self._bounded()
        with open(f"{base}/smaps_rollup", encoding="ascii", errors="replace") as lines:
            self.hugetlb = self.hugetlb or any("Hugetlb" in x and x.split()[1] != "0" for x in lines)
        self.mounts.update(_mounts(base))
        for name in os.listdir(f"{base}/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                self._descriptor(base, name, self.mounts)
            self._bounded()

    def _bounded(self) -> None:
        """Raise OpError `too-large` for a tree that holds more than one message or a plan's patience has room for."""
        held = len(self.files) + len(self.opened) + len(self.sockets)
        held += len(self.deleted) + len(self.watches) + len(self.outside) + len(self.mqueues)
        if held > MOST_THINGS or time.thread_time() > self._until_s:
            text = f"the workload holds more than can be looked at ({held} files and sockets so far)"
            raise OpError("too-large", text, hint="let it close what it does not need")

    def _threads(self, base: str) -> None:
        for tid in os.listdir(f"{base}/task"):
            with (
                contextlib.suppress(OSError, IndexError, ValueError),
                open(f"{base}/task/{tid}/stat", encoding="ascii", errors="replace") as file,
            ):
                policy = int(file.read().rpartition(")")[2].split()[38])  # field 41 of proc_pid_stat(5)
                if policy not in KNOWN_SCHEDULERS:
                    self.schedulers.add(SCHEDULERS.get(policy, f"policy {policy}"))

    def _profile(self, base: str) -> None:
        """The AppArmor profile or SELinux context of a task that has one."""
        with contextlib.suppress(OSError), open(f"{base}/attr/current", encoding="ascii", errors="replace") as file:
            text = file.read().rstrip("\0\n")
            if text and text not in ("unconfined", "kernel"):
                self.confined.add(text)

    def _mapping(self, path: str) -> None:
        target = procs.link(path)
        if target.startswith("/SYSV"):
            self.sysv_shm = True
        if target.startswith(("/anon_hugepage", "/memfd:")):
            with contextlib.suppress(OSError):
                self._huge(os.stat(path).st_blksize)
        self._file(path, "mapped")

    def _huge(self, block_bytes: int) -> None:
        """hugetlbfs alone gives its page size as the size of a block."""
        self.hugetlb = self.hugetlb or block_bytes > os.sysconf("SC_PAGE_SIZE")

    def _descriptor(self, base: str, name: str, mounts: dict[str, str]) -> None:
        path, info = f"{base}/fd/{name}", f"{base}/fdinfo/{name}"
        target = procs.link(path)
        if target.startswith("socket:["):
            self._socket(path, target[8:-1])
            self.holders.setdefault(target[8:-1], int(base[6:]))
        elif target.startswith("anon_inode:"):
            self._anonymous(target[11:], info, mounts)
        elif target.startswith("pipe:["):
            self.pipes.add(target)
        elif target.startswith("/memfd:"):
            self._huge(os.stat(path).st_blksize)
        elif target.startswith("/"):
            self._named(path, info, target, mounts)

    def _named(self, path: str, info: str, target: str, mounts: dict[str, str]) -> None:
        """Look at a descriptor of something that has a path; one that was closed meanwhile has no mount."""
        mount, words = _mount_id(info), path.split("/")
        if not mount:
            return
        pid, number = int(words[2]), int(words[4])
        if mount not in mounts:
            self._outside(path, info, target, pid)
            return
        self._file(path, "open")
        self._terminal(path, info)
        if mounts[mount].startswith(NETWORK_FILESYSTEMS) and _lines(info, "lock:"):
            self.shared_locks.add(target)
        if stat.S_ISREG(os.stat(path).st_mode) and not _flags(info) & os.O_APPEND:
            self.opened.setdefault(target, []).append((pid, number))

    def _outside(self, path: str, info: str, target: str, pid: int) -> None:
        """A descriptor of a mount that the tree does not see: shared memory travels, a message queue cannot."""
        if target == SHARED_MEMORY and stat.S_ISREG(os.stat(path).st_mode):
            return
        if _filesystem(path) == MQUEUE_MAGIC:
            self.mqueues.add(f"{target} in process {pid}")
            return
        self.outside.add(target)
        self._terminal(path, info)

    def _socket(self, path: str, inode: str) -> None:
        if inode not in self.sockets:
            self.sockets.add(inode)
            word = sockets.protocol(path)
            self.protocols[word] = self.protocols.get(word, 0) + 1

    def _anonymous(self, kind: str, info: str, mounts: dict[str, str]) -> None:
        self.anon[kind] = self.anon.get(kind, 0) + 1
        if kind == "inotify":
            for words in _lines(info, "inotify "):
                # A file handle of an overlay filesystem does not lead CRIU back to a path.
                found = dict(word.partition(":")[::2] for word in words)
                device = int(found.get("sdev", "0"), 16)
                number = f"{device >> 20}:{device & 0xFFFFF}"
                if mounts.get(number, "overlay") == "overlay" or "f_handle" not in found:
                    self.watches.add(f"inode {int(found.get('ino', '0'), 16)} on device {number}")
        elif kind == "[pidfd]":
            self.pidfds.update({int(w[1]) for w in _lines(info, "Pid:")} - self.pids)

    def _terminal(self, path: str, info: str) -> None:
        entry = os.stat(path)
        if not stat.S_ISCHR(entry.st_mode):
            return
        if (os.major(entry.st_rdev), os.minor(entry.st_rdev)) == PTMX:
            self.masters.update(int(words[1]) for words in _lines(info, "tty-index:"))
        elif os.major(entry.st_rdev) == TTY_MAJORS[2]:
            self.slaves.add(os.minor(entry.st_rdev))

    def _file(self, path: str, kind: str) -> None:
        target = procs.link(path)
        if not target.startswith("/") or target.startswith(NAMELESS):
            if "io_uring" in target:
                self.anon["[io_uring]"] = self.anon.get("[io_uring]", 0) + 1
            return
        with contextlib.suppress(OSError):
            entry = os.stat(path)
            if stat.S_ISCHR(entry.st_mode) or stat.S_ISBLK(entry.st_mode):
                major = os.major(entry.st_rdev)
                if target.startswith("/dev/pts/") or major in TTY_MAJORS:
                    self.terminals.add(target)
                elif major != MEM_MAJOR:
                    self.devices.add(target)
            elif target.endswith(" (deleted)"):
                self._deleted(target, entry)
            elif target not in self.files and not self._own_proc(target):
                found = {"path": target, "size": entry.st_size, "mode": entry.st_mode, "kind": kind}
                if kind in ("exe", "mapped") and stat.S_ISREG(entry.st_mode):
                    found["build_id"] = elf.build_id(path)
                self.files[target] = found

    def folder(self, path: str) -> None:
        """Add a folder that the copy needs."""
        with contextlib.suppress(OSError):
            self.files.setdefault(path, {"path": path, "size": 0, "mode": os.stat(path).st_mode, "kind": "folder"})

    def _deleted(self, target: str, entry: os.stat_result) -> None:
        self.deleted.add(target)
        if not stat.S_ISREG(entry.st_mode):
            return
        if entry.st_nlink:
            self.linked.add(target.removesuffix(" (deleted)"))
        else:
            self.ghosts[target.removesuffix(" (deleted)")] = entry.st_blocks * 512

    def _own_proc(self, target: str) -> bool:
        """Files of /proc about a task of the tree are there again when it is."""
        words = target.split("/", 3)
        return words[1] == "proc" and words[2:3] != [] and words[2].isdigit() and int(words[2]) in self.pids


def _mounts(base: str) -> dict[str, str]:
    """Return the mounts that a task sees, by their id (fdinfo's mnt_id) and by their device: the filesystem's type."""
    found = {}
    with open(f"{base}/mountinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            found[words[0]] = found[words[2]] = words[words.index("-") + 1]
    return found


def _filesystem(path: str) -> int:
    """Return the number of a file's kind of filesystem (statfs(2), the first word), 0 when it cannot be asked."""
    answer = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).statfs(os.fsencode(path), answer):
        return 0
    return int(ctypes.c_long.from_buffer(answer).value) & 0xFFFFFFFF


def _lines(path: str, word: str) -> list[list[str]]:
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as lines:
        found = (line.split() for line in lines if line.startswith(word))
        return list(itertools.islice(found, MOST_THINGS))
    return []


def _head(path: str, word: bytes) -> str:
    """Return a word of the first lines of fdinfo, which every descriptor has; behind them an epoll has very many."""
    for line in procs.read_some(path, HEAD_BYTES).split(b"\n"):
        if line.startswith(word):
            return line[len(word) :].decode("ascii", "replace").strip()
    return ""


def _flags(path: str) -> int:
    """Return how a descriptor was opened."""
    return int(_head(path, b"flags:") or "0", 8)


def _mount_id(path: str) -> str:
    """Return the mount that a descriptor was opened through."""
    return _head(path, b"mnt_id:")
