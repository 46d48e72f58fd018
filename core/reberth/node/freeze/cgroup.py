"""cgroup v2 as files: freeze, thaw, kill and move; the handle on all tasks of a workload at once."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable

from reberth.node.errors import OpError


def mount_point() -> str:
    """Return where cgroup v2 is mounted, or an empty string; a hybrid machine has it beside the v1 hierarchies."""
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            words = line.split()
            if len(words) > 2 and words[2] == "cgroup2":
                return words[1]
    return ""


def of_pid(pid: int) -> str:
    """Return the directory of a task's cgroup; raises OpError `no-cgroup2`, ProcessLookupError when it is gone."""
    mount = mount_point()
    if not mount:
        raise OpError("no-cgroup2", "cgroup v2 is not mounted", hint="boot with the unified cgroup hierarchy")
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("0::"):
                    return os.path.normpath(mount + "/" + line[3:].rstrip("\n").removesuffix(" (deleted)"))
    except FileNotFoundError as error:
        raise ProcessLookupError(f"no process {pid}") from error
    raise OpError("no-cgroup2", f"process {pid} is in no cgroup of version 2")


def inside(path: str, cgroup: str) -> bool:
    """Tell whether a cgroup is this one or below it."""
    return path == cgroup or path.startswith(cgroup.rstrip("/") + "/")


def up_to(path: str, leaf: str) -> str:
    """Return the part of a cgroup's path that ends with the directory `leaf`.

    Raises OpError `no-cgroup2` without one.
    """
    head, found, _ = (path + "/").partition(f"/{leaf}/")
    if not found:
        raise OpError("no-cgroup2", f"{path} is not below {leaf}", hint="does the daemon use cgroup v2?")
    return f"{head}/{leaf}"


def _write(cgroup: str, name: str, value: str) -> None:
    fd = os.open(os.path.join(cgroup, name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def events(cgroup: str) -> dict[str, int]:
    """`populated` and `frozen`; empty when the cgroup is gone."""
    with contextlib.suppress(OSError), open(os.path.join(cgroup, "cgroup.events"), encoding="ascii") as lines:
        return {k: int(v) for k, v in (line.split() for line in lines)}
    return {}


def is_frozen(cgroup: str) -> bool:
    """Tell whether every task in it has stopped."""
    return events(cgroup).get("frozen") == 1


def is_asked_to_freeze(cgroup: str) -> bool:
    """Tell whether cgroup.freeze is set, stopped already or not."""
    with contextlib.suppress(OSError), open(os.path.join(cgroup, "cgroup.freeze"), encoding="ascii") as file:
        return file.read().strip() == "1"
    return False


def freeze(cgroup: str, timeout_s: float = 10.0) -> None:
    """Stop all tasks and wait until the kernel says so; raises OpError `freeze` and thaws when it does not."""
    _write(cgroup, "cgroup.freeze", "1")
    if not wait_frozen(cgroup, timeout_s):
        with contextlib.suppress(OSError):
            thaw(cgroup)
        raise OpError("freeze", f"the tasks did not stop within {timeout_s:g} s", hint="a task sleeps in the kernel")


def ask_freeze(cgroup: str) -> None:
    """Set cgroup.freeze without waiting: tasks held by CRIU stop as soon as it lets go of them."""
    _write(cgroup, "cgroup.freeze", "1")


def wait_frozen(cgroup: str, timeout_s: float) -> bool:
    """Wait for `frozen 1`; cgroup.events reports a change through poll(2) as POLLPRI."""
    deadline = time.monotonic() + timeout_s
    fd = os.open(os.path.join(cgroup, "cgroup.events"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while True:
            os.lseek(fd, 0, os.SEEK_SET)
            if b"frozen 1" in os.read(fd, 4096):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(min(left, 0.2) * 1000)
    finally:
        os.close(fd)


def thaw(cgroup: str) -> None:
    """Let all tasks run."""
    _write(cgroup, "cgroup.freeze", "0")


def pids(cgroup: str) -> list[int]:
    """Return every process in it and below it."""
    found: list[int] = []
    for directory, _, files in os.walk(cgroup):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError), open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as lines:
                found += [int(line) for line in lines]
    return found


def kill(cgroup: str, timeout_s: float = 10.0) -> bool:
    """Kill every task in it, frozen ones too, and wait until it is empty; true when it is."""
    if not os.path.isdir(cgroup):
        return True
    with contextlib.suppress(FileNotFoundError):
        _write(cgroup, "cgroup.kill", "1")
    deadline = time.monotonic() + timeout_s
    while events(cgroup).get("populated", 0):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def create(path: str) -> None:
    """Make a cgroup without controllers; one left over and empty is taken."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)


def remove(path: str) -> bool:
    """Remove it with the empty ones below; true when it is gone."""
    for directory, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    return not os.path.exists(path)


def sweep(directory: str, open_runs: Callable[[], list[str]], keep: str = "") -> None:
    """Remove the empty cgroups of earlier moves: a workload that has ended leaves the one it was restored into.

    Those of open runs, and of their helpers, stay: one that was made this moment is empty. So the runs are asked for
    after the names: a run is open before it makes a cgroup.
    """
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(directory) if name.startswith("reberth-")]
        runs = (
            {f"reberth-{word}{name}" for name in open_runs() for word in ("", "helper-", "tools-")} if names else set()
        )
        for name in names:
            path = os.path.join(directory, name)
            if name not in runs and path != keep and events(path).get("populated") == 0:
                remove(path)


def enter(cgroup: str, pid: int) -> None:
    """Move one process; a process that has just gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        _write(cgroup, "cgroup.procs", str(pid))
