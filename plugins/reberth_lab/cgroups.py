"""The lab's cgroup2 directories: each process of a node is below one of them, so they list what is ours.

Nothing is ever killed by a remembered pid: a pid may have been given to a stranger since, a cgroup cannot.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from reberth_lab.proc import LabError


def mount_point() -> Path:
    """Return where this machine has cgroup2 mounted; raises LabError with the remedy if nowhere."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] == "cgroup2":
            return Path(left.split()[4])
    raise LabError("cgroup2 is not mounted", "mount -t cgroup2 none /sys/fs/cgroup/unified (or boot with cgroup v2)")


def beside(pid: int) -> list[str]:
    """Return the `cgroup.procs` of the version 1 hierarchies (a hybrid machine has them) in which `pid` is."""
    mounts: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        words = right.split()
        if words[0] == "cgroup":
            mounts.update(dict.fromkeys(words[2].split(","), left.split()[4]))
    found: list[str] = []
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        place = mounts.get(controllers.split(",")[0])
        if controllers and place:
            found.append(f"{place}{path.rstrip('/')}/cgroup.procs")
    return found


def processes(directory: Path) -> list[int]:
    """Pids of all processes in `directory` and below (as this process sees them)."""
    found: list[int] = []
    for path in _tree(directory):
        with contextlib.suppress(OSError):
            found += [int(word) for word in (path / "cgroup.procs").read_text(encoding="ascii").split()]
    return sorted({pid for pid in found if pid > 0})


def init_pid(directory: Path) -> int | None:
    """Return the process in `directory` that is pid 1 of a pid namespace one level below ours."""
    depth = len(namespace_pids("self"))
    for pid in processes(directory):
        pids = namespace_pids(str(pid))
        if len(pids) == depth + 1 and pids[-1] == 1:
            return pid
    return None


def namespace_pids(pid: str) -> list[int]:
    """Return the pids of a process from our namespace inwards (`NSpid` of proc(5)); empty if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return next(([int(word) for word in line.split()[1:]] for line in lines if line.startswith("NSpid:")), [])


def start_ticks(pid: int) -> int | None:
    """Return when the process was started (clock ticks since boot, proc(5)).

    With the pid it names a process for good.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def remove(directory: Path, *, wait_s: float = 20) -> None:
    """Kills all processes below `directory` and removes it; raises LabError if one does not die."""
    deadline = time.monotonic() + wait_s
    dying: dict[int, int | None] = {}
    while directory.exists():
        dying |= {pid: start_ticks(pid) for pid in processes(directory)}
        _kill(directory)
        for path in reversed(list(_tree(directory))):
            # EBUSY: a process is still there, or has just come (a node that was being started): once more.
            with contextlib.suppress(OSError):
                path.rmdir()
        _give_up_after(deadline, processes(directory))
    # A process leaves its cgroup before its namespaces: what is mounted and linked there goes only now.
    while still := [pid for pid, ticks in dying.items() if ticks == start_ticks(pid) and has_namespaces(pid)]:
        _give_up_after(deadline, still)


def _give_up_after(deadline: float, pids: list[int]) -> None:
    if time.monotonic() > deadline:
        raise LabError(f"the processes {pids} of the lab do not die")
    time.sleep(0.01)


def has_namespaces(pid: int) -> bool:
    """Tell whether the process is there and more than a zombie, which only its parent (the machine's init?) can
    remove.
    """
    try:
        return bool(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:
        return False


def _kill(directory: Path) -> None:
    try:
        (directory / "cgroup.kill").write_text("1", encoding="ascii")  # Linux 5.14
    except OSError:
        for pid in processes(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _tree(directory: Path) -> Iterator[Path]:
    """`directory` and all below it, parents first."""
    if directory.is_dir():
        yield directory
        with contextlib.suppress(OSError):
            for child in sorted(path for path in directory.iterdir() if path.is_dir()):
                yield from _tree(child)
