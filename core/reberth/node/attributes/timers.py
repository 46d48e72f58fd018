"""Periodic timers behind descriptors (timerfd) that stood at 0: CRIU makes them again as switched off.

A periodic timerfd that has expired is not armed before it is read (fs/timerfd.c), and fdinfo says 0 until then. CRIU
takes that 0 for "off". A fast ticker is in this state most of the time.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import re
import struct
from collections.abc import Iterable
from typing import Any

from reberth.node.attributes import ids
from reberth.node.system import procs

_LINK = "anon_inode:[timerfd]"
_PAIR = rb"%s: \((\d+), (\d+)\)"
_SET_TICKS = 0x40085400  # TFD_IOC_SET_TICKS, linux/timerfd.h
_MOST_BYTES = 4096


def _read(pid: int, number: int) -> tuple[int, int, int]:
    """Return ticks, ns that are left, and the interval in ns of a timer."""
    data = procs.read_some(f"/proc/{pid}/fdinfo/{number}", _MOST_BYTES)
    ticks = re.search(rb"ticks: (\d+)", data)
    pairs = [re.search(_PAIR % name, data) for name in (b"it_value", b"it_interval")]
    left, interval = (int(p[1]) * 10**9 + int(p[2]) if p else 0 for p in pairs)
    return int(ticks[1]) if ticks else 0, left, interval


def save(pids: Iterable[int]) -> list[list[int]]:
    """Return the periodic timers that are on: own number of the process, descriptor, interval in ns, ticks."""
    found = []
    for number, pid in ids.processes(pids).items():
        for fd in ids.descriptors(pid, _LINK):
            ticks, left, interval = _read(pid, fd)
            if interval and (left or ticks):
                found.append([number, fd, interval, ticks])
    return found


def set_again(pids: Iterable[int], saved: Iterable[Any]) -> list[str]:
    """Arm those that are off in the copy; return what could not be set, in words."""
    lost, known = [], ids.processes(pids)
    for number, fd, interval, ticks in saved:
        pid = known.get(number)
        if pid is None or _read(pid, fd)[1:] != (0, interval):
            continue
        try:
            with ids.borrowed(pid, fd) as copy:
                _arm(copy, interval, ticks)
        except OSError:
            lost.append(f"the timer behind descriptor {fd} of process {number}")
    return lost


def _arm(fd: int, interval_ns: int, ticks: int) -> None:
    when = struct.pack("@4q", *divmod(interval_ns, 10**9), *divmod(interval_ns, 10**9))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.timerfd_settime(fd, 0, when, None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd_settime")
    with contextlib.suppress(OSError):  # needs CONFIG_CHECKPOINT_RESTORE; without it ticks come anew
        if ticks:
            fcntl.ioctl(fd, _SET_TICKS, struct.pack("=Q", ticks))
