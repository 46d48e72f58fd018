"""Processes as /proc tells them: trees, identities, and an end that is certain.

What a process may say of itself (environ, cmdline) is its own: any size, any words, and a reader waits for as long as
the process likes, since the words may lie behind a filesystem of its own. So it is read of root's processes alone, and
never more than `WORDS_BYTES`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

SYS_PIDFD_GETFD = 438  # the same number on every architecture
WORDS_BYTES = 64 << 10
STATUS_BYTES = 1 << 10  # Name, State, Uid and Gid come first; a list of 65536 groups follows


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
    """Return what /proc/PID/stat says, or None.

    Comm may hold spaces and brackets, so the split is at the last bracket.
    """
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


def state(path: str) -> str:
    """Return the letter of a task's state, by its directory in /proc; empty when it is gone."""
    words = read_some(f"{path}/stat", STATUS_BYTES).rpartition(b")")[2].split()
    return words[0].decode("ascii", "replace") if words else ""


def alive(pid: int, start_ticks: int = 0) -> bool:
    """Tell whether this very process still runs; a zombie does not."""
    found = task(pid)
    return found is not None and found.state not in "ZX" and start_ticks in (0, found.start_ticks)


def started_s(found: Task) -> float:
    """Return when a process was started, in seconds of the wall clock."""
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - found.start_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s


def all_tasks() -> Iterator[Task]:
    """Yield every process that this /proc shows, one at a time: a user may have very many."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and (found := task(int(name))) is not None:
            yield found


def criu_works() -> bool:
    """Return whether a criu of root's works on this node: any user can give a process that name."""
    return any(found.comm == "criu" and is_roots(found.pid) for found in all_tasks())


def tree(root: int) -> list[Task]:
    """Return the process and all that descend from it, parents first; empty when there is none."""
    known = {t.pid: t for t in all_tasks()}
    if root not in known:
        return []
    below: dict[int, list[Task]] = {}
    for t in known.values():
        below.setdefault(t.ppid, []).append(t)
    order, seen = [known[root]], {root}
    for t in order:  # a pid that was given anew while /proc was read could make a circle
        new = [child for child in below.get(t.pid, []) if child.pid not in seen]
        seen.update(child.pid for child in new)
        order += new
    return order


def below(root: int, pids: Iterable[int]) -> list[int]:
    """Return those of the processes that live and descend from `root` by way of one another, itself first.

    Reads only them.
    """
    found = {t.pid: t for t in map(task, {root, *pids}) if t is not None and t.state not in "ZX"}
    inside, order = {root}, sorted(found.values(), key=lambda t: (t.pid != root, t.start_ticks, t.pid))
    grown = True
    while grown:
        new = {t.pid for t in order if t.ppid in inside and t.pid not in inside}
        inside, grown = inside | new, bool(new)
    return [t.pid for t in order if t.pid in inside]


def read_some(path: str, limit_bytes: int = WORDS_BYTES) -> bytes:
    """Return the first bytes of a file of /proc, none when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        found = b""
        while len(found) < limit_bytes:
            piece = os.read(fd, limit_bytes - len(found))
            if not piece:
                break
            found += piece
        return found
    except OSError:
        return b""
    finally:
        os.close(fd)


def uids(pid: int) -> set[int]:
    """Return the real, effective, saved and filesystem user ids of a process, none when it is gone.

    The owner of its files in /proc tells less: that is root for each one that may not be dumped, and for a program with
    the setuid bit, whose words are its caller's. A name cannot forge the line, since the kernel escapes line ends in it
    (proc_pid_status(5)).
    """
    for line in read_some(f"/proc/{pid}/status", STATUS_BYTES).split(b"\n"):
        if line.startswith(b"Uid:"):
            return {int(word) for word in line.split()[1:]}
    return set()


def is_roots(pid: int) -> bool:
    """Return whether a process is root's, or of the one user whose helper this is: only these are asked for words."""
    found = uids(pid)
    return found == {0} or found == {os.getuid()}


def command_line(pid: int) -> list[str]:
    """Return the first words of /proc/PID/cmdline; none when it is gone or another user's."""
    data = read_some(f"/proc/{pid}/cmdline") if is_roots(pid) else b""
    return data.decode("utf-8", "backslashreplace").rstrip("\0").split("\0") if data else []


def environment(pid: int) -> dict[str, str]:
    """Return the variables that a process was started with, the first of them; none when it is another user's."""
    data = read_some(f"/proc/{pid}/environ") if is_roots(pid) else b""
    words = data.decode("utf-8", "surrogateescape").split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def send(task: Task, with_signal: int) -> None:
    """Signal this very process: its pid may be another's since it was looked at. One that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        try:
            held = os.pidfd_open(task.pid)
        except ProcessLookupError:
            return
        except OSError:  # a kernel before 5.3, or a sandbox that does not know the call
            if alive(task.pid, task.start_ticks):
                os.kill(task.pid, with_signal)
            return
        try:
            if alive(task.pid, task.start_ticks):
                signal.pidfd_send_signal(held, with_signal)
        finally:
            os.close(held)


def ancestors(pid: int, stop: int) -> list[int]:
    """Return the process and its parents up to and without `stop`."""
    chain: list[int] = []
    while pid > 1 and pid != stop:
        found = task(pid)
        if found is None:
            break
        chain.append(pid)
        pid = found.ppid
    return chain


def descends(pid: int, ancestor: int) -> bool:
    """Tell whether every parent up to `ancestor` still lives: a process whose parent has died belongs to init."""
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
    """Return where a link of /proc leads, empty when it cannot be read."""
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
    """Return a descriptor of our own for one of another process, by pidfd_getfd(2); raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    copy: int = libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return copy


def copy_of(pid: int, number: int) -> int:
    """Return a descriptor of our own for one of a process, by its pid; raise OSError when it cannot be had."""
    pidfd = os.pidfd_open(pid)
    try:
        return copy_fd(pidfd, number)
    finally:
        os.close(pidfd)
