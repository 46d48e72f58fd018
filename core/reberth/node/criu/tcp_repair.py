"""TCP sockets that a killed CRIU left in repair mode: they answer EPERM to their owner and nothing to their peer.

CRIU switches a socket to repair mode when it dumps it and back when it lets the tasks run; killed in between it does
neither, and its packet filter rules stay as well. Tried: what the tasks do not touch before they are frozen again goes
on, what they touch may be lost (figures in docs/reliability.md). Turning the mode off also clears
SO_REUSEADDR, which is set again: a server that is started anew would find its port in use.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable

from reberth.node.net import sockets as tcp
from reberth.node.system import procs

TCP_REPAIR = 19


def sockets(pids: Iterable[int]) -> int:
    """Take every TCP socket of these processes out of repair mode; returns how many were in it."""
    healed = 0
    seen: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            pidfd = os.pidfd_open(pid)
            try:
                for number in _new_sockets(pid, seen):
                    healed += _heal(pidfd, number)
            finally:
                os.close(pidfd)
    return healed


def connections(pids: Iterable[int]) -> set[tuple[str, str]]:
    """Both addresses of each connection that these processes have, this end first."""
    inodes: dict[str, set[str]] = {}
    first: dict[str, int] = {}  # of each network: its table is read once, and may be long
    for pid in pids:
        with contextlib.suppress(OSError):
            links = [procs.link(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
            network = procs.link(f"/proc/{pid}/ns/net")
            first.setdefault(network, pid)
            inodes.setdefault(network, set()).update(link[8:-1] for link in links if link.startswith("socket:["))
    found = (tcp.connections(first[network], mine) for network, mine in inodes.items() if mine)
    return set[tuple[str, str]]().union(*found)


def _new_sockets(pid: int, seen: set[str]) -> list[int]:
    """Descriptors of sockets that were not looked at yet, of another process or this one."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        inode = procs.link(f"/proc/{pid}/fd/{name}")
        if inode.startswith("socket:") and inode not in seen:
            seen.add(inode)
            found.append(int(name))
    return found


def _heal(pidfd: int, number: int) -> int:
    try:
        with socket.socket(fileno=procs.copy_fd(pidfd, number)) as one:  # closing it closes the copy alone
            if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_STREAM:
                return 0
            if one.proto != socket.IPPROTO_TCP or not one.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR):
                return 0
            one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 0)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return 1
    except OSError:
        return 0
