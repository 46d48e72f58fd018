"""Processes as /proc tells them: trees, identities, and an end that is certain."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable
from typing import NamedTuple

SYS_PIDFD_GETFD = 438  # the same number on every architecture


class Task(NamedTuple):
    """One process: `start_ticks` with the pid is its identity (a pid alone may be reused)."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    tty: int
    threads: int
    start_ticks: int
    state: str
    comm: str


def task(pid: int) -> Task | None:
    """What /proc/PID/stat says, or None; comm may hold spaces and brackets, so the split is at the last bracket."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="backslashreplace") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, rest = text.rpartition(")")
    words = rest.split()
    return Task(
        pid=pid,
        ppid=int(words[1]),
        pgid=int(words[2]),
        sid=int(words[3]),
        tty=int(words[4]),
        threads=int(words[17]),
        start_ticks=int(words[19]),
        state=words[0],
        comm=head.partition("(")[2],
    )


def alive(pid: int, start_ticks: int = 0) -> bool:
    """Whether this very process still runs; a zombie does not."""
    found = task(pid)
    return found is not None and found.state not in "ZX" and start_ticks in (0, found.start_ticks)


def started_s(found: Task) -> float:
    """When a process was started, in seconds of the wall clock."""
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - found.start_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s


def all_tasks() -> list[Task]:
    """Every process that this /proc shows."""
    found = (task(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [t for t in found if t is not None]


def tree(root: int) -> list[Task]:
    """The process and all that descend from it, parents first; empty when there is none."""
    known = {t.pid: t for t in all_tasks()}
    if root not in known:
        return []
    below: dict[int, list[Task]] = {}
    for t in known.values():
        below.setdefault(t.ppid, []).append(t)
    order = [known[root]]
    for t in order:
        order += below.get(t.pid, [])
    return order


def below(root: int, pids: Iterable[int]) -> list[int]:
    """Those of the processes that live and descend from `root` by way of one another, itself first; reads only them."""
    found = {t.pid: t for t in map(task, {root, *pids}) if t is not None and t.state not in "ZX"}
    inside, order = {root}, sorted(found.values(), key=lambda t: (t.pid != root, t.start_ticks, t.pid))
    grown = True
    while grown:
        new = {t.pid for t in order if t.ppid in inside and t.pid not in inside}
        inside, grown = inside | new, bool(new)
    return [t.pid for t in order if t.pid in inside]


def command_line(pid: int) -> list[str]:
    """The words of /proc/PID/cmdline, empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode("utf-8", "backslashreplace").rstrip("\0").split("\0")
    except OSError:
        return []


def environment(pid: int) -> dict[str, str]:
    """The variables that a process was started with, empty when it is gone."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = file.read().decode("utf-8", "surrogateescape").split("\0")
    except OSError:
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def ancestors(pid: int, stop: int) -> list[int]:
    """The process and its parents up to and without `stop`."""
    chain: list[int] = []
    while pid > 1 and pid != stop:
        found = task(pid)
        if found is None:
            break
        chain.append(pid)
        pid = found.ppid
    return chain


def descends(pid: int, ancestor: int) -> bool:
    """Whether every parent up to `ancestor` still lives: a process whose parent has died belongs to init."""
    while pid > 1 and pid != ancestor:
        found = task(pid)
        pid = found.ppid if found and found.state not in "ZX" else 0
    return pid == ancestor


def memory_bytes(pid: int) -> int:
    """Resident memory of one process."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def link(path: str) -> str:
    """Where a link of /proc leads, empty when it cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def capabilities() -> int:
    """Effective capabilities of this process as a bit mask (bit 24 is CAP_SYS_RESOURCE)."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def copy_fd(pidfd: int, number: int) -> int:
    """A descriptor of our own for one of another process, by pidfd_getfd(2); raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    copy: int = libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return copy
