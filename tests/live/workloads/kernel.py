"""System calls that Python 3.9 has no function for, through the C library."""

from __future__ import annotations

import ctypes
import os
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)
_ITIMERSPEC = struct.Struct("<4q")  # interval s, ns, value s, ns (64-bit machines)
_SIGEVENT_BYTES = 64
_SIGINFO_BYTES = 128
CLOCK_MONOTONIC = 1
SI_QUEUE = -1
RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _spec(interval_s: float, first_s: float) -> bytes:
    return _ITIMERSPEC.pack(*_split(interval_s), *_split(first_s))


def _split(seconds: float) -> tuple[int, int]:
    return int(seconds), round(seconds % 1 * 1e9)


def _joined(data: bytes) -> tuple[float, float]:
    interval_s, interval_ns, value_s, value_ns = _ITIMERSPEC.unpack(data)
    return interval_s + interval_ns / 1e9, value_s + value_ns / 1e9


def timerfd(interval_s: float, first_s: float) -> int:
    """A running timerfd on CLOCK_MONOTONIC, not blocking."""
    number = _checked(_LIBC.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK))
    timerfd_set(number, interval_s, first_s)
    return number


def timerfd_set(number: int, interval_s: float, first_s: float) -> None:
    """Arm a timerfd anew; a first time of 0 disarms it."""
    _checked(_LIBC.timerfd_settime(number, 0, _spec(interval_s, first_s), None))


def timerfd_get(number: int) -> tuple[float, float]:
    """Interval and time left of a timerfd, in seconds."""
    buffer = ctypes.create_string_buffer(_ITIMERSPEC.size)
    _checked(_LIBC.timerfd_gettime(number, buffer))
    return _joined(buffer.raw)


class PosixTimer:
    """A timer of timer_create(2) that sends a signal to the process."""

    def __init__(self, signal_number: int, interval_s: float) -> None:
        event = struct.pack("<qii", 0, signal_number, 0).ljust(_SIGEVENT_BYTES, b"\0")
        self._id = ctypes.c_void_p()
        _checked(_LIBC.timer_create(CLOCK_MONOTONIC, event, ctypes.byref(self._id)))
        self.set(interval_s, interval_s)

    def set(self, interval_s: float, first_s: float) -> None:
        """Arm it anew; a first time of 0 disarms it."""
        _checked(_LIBC.timer_settime(self._id, 0, _spec(interval_s, first_s), None))

    def get(self) -> tuple[float, float]:
        """Interval and time left, in seconds."""
        buffer = ctypes.create_string_buffer(_ITIMERSPEC.size)
        _checked(_LIBC.timer_gettime(self._id, buffer))
        return _joined(buffer.raw)


def eventfd(value: int) -> int:
    """An event counter, not blocking."""
    return _checked(_LIBC.eventfd(value, os.O_NONBLOCK))


def _mask(signals: list[int]) -> bytes:
    # glibc's sigset_t has 1024 bits, the kernel reads the first 64.
    return struct.pack("<Q", sum(1 << (number - 1) for number in signals)).ljust(128, b"\0")


def signalfd(signals: list[int]) -> int:
    """A descriptor that reads these (blocked) signals, not blocking."""
    return _checked(_LIBC.signalfd(-1, _mask(signals), os.O_NONBLOCK))


def sigqueue(signal_number: int, value: int) -> None:
    """Send this process a signal with a value."""
    _checked(_LIBC.sigqueue(os.getpid(), signal_number, ctypes.c_void_p(value)))


def sigtake(signal_number: int) -> tuple[int, int]:
    """Take one pending signal: its ``si_code`` and value; BlockingIOError if there is none."""
    info = ctypes.create_string_buffer(_SIGINFO_BYTES)
    _checked(_LIBC.sigtimedwait(_mask([signal_number]), info, bytes(16)))
    return struct.unpack_from("<i", info.raw, 8)[0], struct.unpack_from("<i", info.raw, 24)[0]


def inotify(path: str) -> int:
    """A descriptor that watches one directory for new files, not blocking."""
    number = _checked(_LIBC.inotify_init1(os.O_NONBLOCK))
    in_create = 0x100
    _checked(_LIBC.inotify_add_watch(number, os.fsencode(path), in_create))
    return number


def exchange(one: str, other: str) -> None:
    """Swap two names at once (renameat2 with RENAME_EXCHANGE)."""
    _checked(_LIBC.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE))
