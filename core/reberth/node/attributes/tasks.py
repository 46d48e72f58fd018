"""Attributes of threads and processes that an operator sets: processors, I/O priority, timer slack, coredump filter."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Mapping
from typing import Any

from reberth.node.attributes import ids
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.system import procs

# Numbers of ioprio_set(2) and ioprio_get(2): asm/unistd.h of x86_64; asm-generic/unistd.h of the others that we know.
_IOPRIO_SET, _IOPRIO_GET = (251, 252) if os.uname().machine == "x86_64" else (30, 31)
_ONE_THREAD = 1  # IOPRIO_WHO_PROCESS
DEFAULTS = {"ioprio": 0, "slack_ns": 50000, "coredump": 0x33}  # what a process gets that sets nothing


def save(pids: Iterable[int]) -> dict[str, Any]:
    """Return what differs from the defaults: `threads` and `processes` by their own numbers."""
    found: dict[str, Any] = {"threads": {}, "processes": {}}
    for number, pid in ids.processes(pids).items():
        value = _coredump(pid)
        if value not in (None, DEFAULTS["coredump"]):
            found["processes"][str(number)] = {"coredump": value}
        allowed = _of_its_group(pid)
        for thread, tid in ids.threads(pid):
            with contextlib.suppress(OSError, ValueError):
                one = _thread(tid, allowed)
                if one:
                    found["threads"][str(thread)] = one
    return found


def _thread(tid: int, allowed: set[int]) -> dict[str, Any]:
    one: dict[str, Any] = {"ioprio": _ioprio(tid), "slack_ns": _slack_ns(tid)}
    one = {key: value for key, value in one.items() if value != DEFAULTS[key]}
    processors = os.sched_getaffinity(tid)
    return one if processors >= allowed else {**one, "processors": sorted(processors)}


def here() -> list[int]:
    """Return the numbers of this node's processors."""
    return sorted(_allowed(cgroup.mount_point()))


def _allowed(group: str) -> set[int]:
    """Return the processors that a cgroup may use: a thread that is bound to just these was never bound."""
    top = cgroup.mount_point()
    while True:
        text = procs.read_some(f"{group}/cpuset.cpus.effective", 1 << 16).decode("ascii", "replace").strip()
        if text or group in (top, "/"):
            break
        group = os.path.dirname(group)
    if not text:
        return set(range(os.cpu_count() or 1))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _of_its_group(pid: int) -> set[int]:
    with contextlib.suppress(OpError, OSError, ValueError):
        return _allowed(cgroup.of_pid(pid))
    return set(range(os.cpu_count() or 1))


def described(pids: Iterable[int]) -> dict[str, Any]:
    """Return what a plan asks: the `processors` of threads that are bound to some, and each odd `personality`."""
    processors: set[int] = set()
    personality = []
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            found = int(procs.read_some(f"/proc/{pid}/personality", 64) or b"0", 16)
            if found:
                personality.append(f"{found:#x} of process {pid}")
        allowed = _of_its_group(pid)
        for _, tid in ids.threads(pid):
            with contextlib.suppress(OSError):
                bound = os.sched_getaffinity(tid)
                processors |= set() if bound >= allowed else bound
    return {"processors": sorted(processors), "personality": personality}


def set_again(pids: Iterable[int], saved: Mapping[str, Any]) -> list[str]:
    """Give each task of the copy what it had; return what could not be set, in words."""
    lost: list[str] = []
    for number, pid in ids.processes(pids).items():
        coredump = saved["processes"].get(str(number), {}).get("coredump", DEFAULTS["coredump"])
        if _coredump(pid) not in (None, coredump) and not _write(pid, "coredump_filter", f"{coredump:#x}"):
            lost.append(f"the coredump filter {coredump:#x} of process {number}")
        allowed = _of_its_group(pid)
        for thread, tid in ids.threads(pid):
            lost += _set_thread(thread, tid, saved["threads"].get(str(thread), {}), allowed)
    return lost


def _set_thread(number: int, tid: int, wanted: Mapping[str, Any], allowed: set[int]) -> list[str]:
    lost = []
    ioprio, slack_ns = wanted.get("ioprio", DEFAULTS["ioprio"]), wanted.get("slack_ns", DEFAULTS["slack_ns"])
    processors = set(wanted.get("processors", allowed))
    there = processors & allowed
    try:
        if there and os.sched_getaffinity(tid) != there:
            os.sched_setaffinity(tid, there)
    except OSError:
        there = set()
    if processors - there:
        lost.append(f"the processors {_words(processors - there)} of thread {number}")
    with contextlib.suppress(OSError, ValueError):
        if _ioprio(tid) != ioprio and ctypes.CDLL(None).syscall(_IOPRIO_SET, _ONE_THREAD, tid, ioprio) != 0:
            lost.append(f"the I/O priority {ioprio >> 13}:{ioprio & 7} of thread {number}")
        if _slack_ns(tid) != slack_ns and not _write(tid, "timerslack_ns", str(slack_ns)):
            lost.append(f"the timer slack of {slack_ns} ns of thread {number}")
    return lost


def _words(processors: set[int]) -> str:
    return ",".join(map(str, sorted(processors)))


def _ioprio(tid: int) -> int:
    found: int = ctypes.CDLL(None).syscall(_IOPRIO_GET, _ONE_THREAD, tid)
    if found < 0:
        raise OSError("ioprio_get")
    return found


def _slack_ns(tid: int) -> int:
    return int(procs.read_some(f"/proc/{tid}/timerslack_ns", 64))


def _coredump(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(procs.read_some(f"/proc/{pid}/coredump_filter", 64), 16)
    return None


def _write(pid: int, name: str, text: str) -> bool:
    try:
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        return False
    return True
