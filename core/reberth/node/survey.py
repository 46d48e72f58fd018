"""What a process tree holds, from /proc alone and without touching it: the ground for every preflight check."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any

from reberth.node import cgroup, loopback, procs
from reberth.node.errors import OpError

if TYPE_CHECKING:
    from reberth.node.serve import Daemon

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
ESTABLISHED, LISTEN = "01", "0A"
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


def describe(daemon: Daemon, progress: Any, pid: int) -> dict[str, Any]:
    """Tasks, files, sockets, descriptors of other kinds, namespaces and memory of a tree; raises OpError `ended`."""
    tasks = procs.tree(pid)
    if not tasks or tasks[0].state in "ZX":
        raise OpError("ended", f"there is no process {pid}")
    files: dict[str, dict[str, Any]] = {}
    found = _Found(files)
    for task in tasks:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            found.add(task)
    inside, outside, listening = _tcp(pid, found.sockets)
    home = ""
    with contextlib.suppress(OpError, ProcessLookupError):
        home = cgroup.of_pid(pid)
    return {
        "pid": pid,
        "tasks": [t._asdict() for t in tasks],
        "parents": [t.comm for t in map(procs.task, procs.ancestors(tasks[0].ppid, 1)) if t],
        "uids": sorted(found.uids),
        "exe": procs.link(f"/proc/{pid}/exe"),
        "cwd": procs.link(f"/proc/{pid}/cwd"),
        "root": procs.link(f"/proc/{pid}/root"),
        "memory_bytes": sum(procs.memory_bytes(t.pid) for t in tasks),
        "files": list(files.values()),
        "deleted": sorted(found.deleted),
        "anon": found.anon,
        "devices": sorted(found.devices),
        "terminals": sorted(found.terminals),
        "hugetlb": found.hugetlb,
        "tcp": {"inside": inside, "outside": outside, "listening": listening},
        "namespaces": {n: procs.link(f"/proc/{pid}/ns/{n}") for n in NAMESPACES},
        "helper_namespaces": {n: procs.link(f"/proc/self/ns/{n}") for n in NAMESPACES},
        "cgroup": home,
        "traced_by": found.tracers,
        "loopback_up": loopback.is_up(pid),
        "outside_mounts": sorted(found.outside),
        "pipes": sorted(found.pipes),
        "shared_locks": sorted(found.shared_locks),
    }


class _Found:
    """What is gathered over all tasks of a tree."""

    def __init__(self, files: dict[str, dict[str, Any]]) -> None:
        self.files = files
        self.deleted: set[str] = set()
        self.anon: dict[str, int] = {}
        self.devices: set[str] = set()
        self.terminals: set[str] = set()
        self.sockets: set[str] = set()
        self.uids: set[int] = set()
        self.tracers: list[int] = []
        self.hugetlb = False
        self.outside: set[str] = set()
        self.pipes: set[str] = set()
        self.shared_locks: set[str] = set()

    def add(self, task: procs.Task) -> None:
        """Look at one process."""
        base = f"/proc/{task.pid}"
        with open(f"{base}/status", encoding="utf-8", errors="replace") as lines:
            words = {line.split(":")[0]: line.split(":")[1].split() for line in lines if ":" in line}
        self.uids.update(int(u) for u in words.get("Uid", ["0"]))
        if words.get("TracerPid", ["0"])[0] != "0":
            self.tracers.append(task.pid)
        for name in ("exe", "cwd"):
            self._file(f"{base}/{name}", name)
        for name in os.listdir(f"{base}/map_files"):
            self._file(f"{base}/map_files/{name}", "mapped")
        with open(f"{base}/smaps_rollup", encoding="ascii", errors="replace") as lines:
            self.hugetlb = self.hugetlb or any("Hugetlb" in x and x.split()[1] != "0" for x in lines)
        with open(f"{base}/mountinfo", encoding="utf-8", errors="replace") as lines:
            mounts = {line.split(" ", 1)[0]: line.rpartition(" - ")[2].split(" ", 1)[0] for line in lines}
        for name in os.listdir(f"{base}/fd"):
            self._descriptor(base, name, mounts)

    def _descriptor(self, base: str, name: str, mounts: dict[str, str]) -> None:
        path = f"{base}/fd/{name}"
        target = procs.link(path)
        if target.startswith("socket:["):
            self.sockets.add(target[8:-1])
        elif target.startswith("anon_inode:"):
            self.anon[target[11:]] = self.anon.get(target[11:], 0) + 1
        elif target.startswith("pipe:["):
            self.pipes.add(target)
        elif target.startswith("/"):
            self._file(path, "open")
            mount, locked = _fdinfo(f"{base}/fdinfo/{name}")
            if not target.startswith("/memfd:") and mount not in mounts:
                self.outside.add(target)
            if locked and mounts.get(mount, "").startswith(NETWORK_FILESYSTEMS):
                self.shared_locks.add(target)

    def _file(self, path: str, kind: str) -> None:
        target = procs.link(path)
        if not target.startswith("/") or target.startswith(("/memfd:", "/dev/zero (deleted)", "/SYSV")):
            if "io_uring" in target:
                self.anon["[io_uring]"] = self.anon.get("[io_uring]", 0) + 1
            return
        with contextlib.suppress(OSError):
            entry = os.stat(path)
            if stat.S_ISCHR(entry.st_mode) or stat.S_ISBLK(entry.st_mode):
                major = os.major(entry.st_rdev)
                if target.startswith("/dev/pts/") or major in (4, 5, 136):
                    self.terminals.add(target)
                elif major != 1:  # /dev/null, zero, full, random, urandom are known to CRIU everywhere
                    self.devices.add(target)
            elif target.endswith(" (deleted)"):
                self.deleted.add(target)
            elif target not in self.files:
                self.files[target] = {"path": target, "size": entry.st_size, "mode": entry.st_mode, "kind": kind}


def _fdinfo(path: str) -> tuple[str, bool]:
    """The mount that a descriptor was opened through (mnt_id), and whether a lock is held on its file."""
    mount, locked = "", False
    with contextlib.suppress(OSError), open(path, encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("mnt_id:"):
                mount = line.split()[1]
            locked = locked or line.startswith("lock:")
    return mount, locked


def _tcp(pid: int, inodes: set[str]) -> tuple[int, list[str], list[str]]:
    """Established connections with both ends in the tree, those with an end outside, and listening addresses."""
    pairs: dict[tuple[str, str], str] = {}
    listening: set[str] = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{name}", encoding="ascii") as lines:
            next(lines, None)
            for line in lines:
                words = line.split()
                if words[9] not in inodes:
                    continue
                if words[3] == LISTEN:
                    listening.add(address(words[1]))
                elif words[3] not in ("06", "07"):  # TIME_WAIT belongs to nobody, CLOSE is no connection
                    pairs[(_plain(words[1]), _plain(words[2]))] = words[2]
    outside = [f"{address(here)} - {address(there)}" for here, there in pairs if (there, here) not in pairs]
    return len(pairs) - len(outside), sorted(outside), sorted(listening)


def _plain(hexadecimal: str) -> str:
    """An IPv4 address inside IPv6 and the same in IPv4 are one."""
    return hexadecimal[24:] if hexadecimal.startswith("0000000000000000FFFF0000") else hexadecimal


def address(hexadecimal: str) -> str:
    """`0100007F:1F90` as 127.0.0.1:8080; the kernel writes each 32-bit word in its own byte order."""
    host, _, port = hexadecimal.partition(":")
    words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
    raw = b"".join(words)
    if len(raw) == 4:
        text = ".".join(str(b) for b in raw)
    else:
        text = "[" + ":".join(raw[i : i + 2].hex() for i in range(0, 16, 2)) + "]"
    return f"{text}:{int(port, 16)}"


def compare_files(daemon: Daemon, progress: Any, files: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Which of these files CRIU would not accept here: missing, another type, mode or size (it compares these)."""
    problems: list[dict[str, str]] = []
    for wanted in files:
        try:
            entry = os.stat(wanted["path"])
        except OSError as error:
            problems.append({"path": wanted["path"], "problem": error.strerror or "missing"})
            continue
        if entry.st_mode != wanted["mode"]:
            text = f"mode {stat.filemode(entry.st_mode)}, not {stat.filemode(wanted['mode'])}"
            problems.append({"path": wanted["path"], "problem": text})
        elif stat.S_ISREG(entry.st_mode) and entry.st_size != wanted["size"]:
            problems.append({"path": wanted["path"], "problem": f"size {entry.st_size}, not {wanted['size']}"})
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
