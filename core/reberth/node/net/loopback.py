"""The loopback interface of a network namespace: CRIU under runc restores it down, and connections over it with it.

runc gives a new container's own network namespace a loopback that is up; a restored one only what CRIU makes of it
(runc 1.1.15: "Network is unreachable" at the restore of a connection over 127.0.0.1, tried 2026-11-23).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from typing import Callable, Optional, TypeVar

Answer = TypeVar("Answer")

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def is_up(pid: int) -> bool:
    """Tell whether `lo` is up in the network namespace of a process."""
    return bool((inside(pid, _flags) or 0) & IFF_UP)


def set_up(pid: int) -> None:
    """Bring `lo` up there."""
    inside(pid, raise_here)


def _flags() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sh14x", b"lo", 0))
    return int(struct.unpack("16sh14x", answer)[1])


def raise_here() -> int:
    """Bring `lo` up in the calling thread's own namespace; returns the flags it had, with the new one."""
    flags = _flags() | IFF_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags))
    return flags


def inside(pid: int, action: Callable[[], Answer]) -> Optional[Answer]:
    """Do something in a process's network namespace, in a thread that ends there: setns(2) moves one thread only.

    None when that is not possible.
    """
    answers: list[Answer] = []

    def enter() -> None:
        fd = -1
        try:
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) == 0:
                answers.append(action())
        except OSError:
            pass
        finally:
            if fd >= 0:
                os.close(fd)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return answers[0] if answers else None
