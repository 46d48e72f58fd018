"""How a process ended that is not our child, and a tool that is none of our children but init's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import threading
import time
from typing import Optional

# ioctl PIDFD_GET_INFO with PIDFD_INFO_EXIT (include/uapi/linux/pidfd.h, Linux 6.15): the exit status of a process that
# was reaped by somebody else.
PIDFD_GET_INFO, PIDFD_INFO_EXIT, INFO_BYTES = 0xC040FF0B, 1 << 3, 64
REAP_S = 0.05


def exit_status(pidfd: int, pid: int, patience_s: float = REAP_S) -> Optional[int]:
    """Return the wait status of a process that has ended and is not our child; None where the kernel does not tell."""
    if pidfd < 0:
        return None
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(OSError):
            answer = fcntl.ioctl(pidfd, PIDFD_GET_INFO, struct.pack("Q56x", PIDFD_INFO_EXIT))
            mask, status = struct.unpack_from("Q", answer)[0], struct.unpack_from("i", answer, INFO_BYTES - 4)[0]
            if mask & PIDFD_INFO_EXIT:
                return int(status)
        found = _zombie_status(pid)
        if found is not None or time.monotonic() > deadline:
            return found
        time.sleep(0.002)  # its parent has not reaped it yet


def _zombie_status(pid: int) -> Optional[int]:
    """Return the last word of /proc/PID/stat, as long as it is not reaped (proc_pid_stat(5))."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        words = file.read().rpartition(")")[2].split()
        return int(words[-1]) if words[0] in "ZX" else None
    return None


def how_ended(pidfd: int, pid: int) -> str:
    """Return what it came to, in words."""
    status = exit_status(pidfd, pid)
    return "ended (this kernel does not tell how)" if status is None else words_of(status)


def words_of(status: int) -> str:
    """Return a wait status in words."""
    number = status & 0x7F
    if not number:
        return f"ended with exit status {status >> 8 & 0xFF}"
    return f"was killed by {signal_name(number)}"


def signal_name(number: int) -> str:
    """SIGTERM for 15; a number for what has no name, empty for 0."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}" if number else ""


def kernel_tells() -> bool:
    """Tell whether this kernel tells the exit status of a process that somebody else has reaped (Linux 6.15)."""
    with subprocess.Popen(["/bin/sh", "-c", "read -r _; exit 7"], stdin=subprocess.PIPE) as child:
        pidfd = os.pidfd_open(child.pid)
        child.communicate(b"\n")
        try:
            return exit_status(pidfd, child.pid, 0.0) == 7 << 8
        finally:
            os.close(pidfd)


class Adopted:
    """A process that init has adopted, with the words of a Popen; its exit status is told by its pidfd."""

    def __init__(self, pid: int, patience_s: float = 5.0) -> None:
        self.pid, self.returncode = pid, None
        self._pidfd, self._patience_s = os.pidfd_open(pid), patience_s
        self._lock = threading.Lock()

    returncode: Optional[int]

    def poll(self) -> Optional[int]:
        """Return the exit status, None while it lives; -1 where it cannot be told how it ended."""
        return self._look(0.0)

    def wait(self, timeout: Optional[float] = None) -> int:
        """Wait for its end; raises subprocess.TimeoutExpired."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def _look(self, timeout_s: Optional[float]) -> Optional[int]:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(None if timeout_s is None else timeout_s * 1000):
            return None
        with self._lock:
            if self.returncode is None:
                status = exit_status(self._pidfd, self.pid, self._patience_s)
                self.returncode = -1 if status is None else os.waitstatus_to_exitcode(status)
            return self.returncode
