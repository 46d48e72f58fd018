"""The sockets of a process tree: connections and where they lead, and sockets of kinds that CRIU does not know."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Optional

from reberth.node.net import loopback, netlink

ESTABLISHED, LISTEN = "01", "0A"
NOT_A_CONNECTION = ("06", "07")  # TIME_WAIT belongs to nobody, CLOSE is no connection
# linux/sock_diag.h and linux/unix_diag.h
SOCK_DIAG_BY_FAMILY, UNIX_SHOW = 20, 0x1 | 0x2 | 0x4 | 0x8  # name, inode of the path, peer, waiting connections
DIAG_NAME, DIAG_PEER, DIAG_WAITING = 0, 2, 3
# A server has connections waiting at any moment: only those that are still there after this are one that stays so.
SECOND_LOOK_S = 0.1

Rows = list[list[str]]


def protocol(path: str) -> str:
    """The kernel's name for a socket's protocol (TCP, UNIX-STREAM, PACKET, MPTCP, ...); empty if it tells none."""
    with contextlib.suppress(OSError):
        return os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode("ascii", "replace")
    return ""


def _table(pid: int) -> Rows:
    rows: Rows = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{name}", encoding="ascii") as lines:
            next(lines, None)
            rows += [line.split() for line in lines]
    return rows


def tcp(pid: int, inodes: set[str]) -> tuple[int, list[str], list[str]]:
    """Established connections with both ends in the tree, those with an end outside, and listening addresses."""
    pairs: dict[tuple[str, str], str] = {}
    listening: set[str] = set()
    for words in _table(pid):
        if words[9] not in inodes:
            continue
        if words[3] == LISTEN:
            listening.add(address(words[1]))
        elif words[3] not in NOT_A_CONNECTION:
            pairs[(_plain(words[1]), _plain(words[2]))] = words[2]
    outside = [f"{address(here)} - {address(there)}" for here, there in pairs if (there, here) not in pairs]
    return len(pairs) - len(outside), sorted(outside), sorted(listening)


def connections(pid: int, inodes: set[str]) -> set[tuple[str, str]]:
    """Both addresses of each connection of these sockets, this end first."""
    rows = (w for w in _table(pid) if w[9] in inodes and w[3] not in (LISTEN, *NOT_A_CONNECTION))
    return {(address(words[1]), address(words[2])) for words in rows}


def listening(pid: int) -> list[str]:
    """Every address that is listened on in this process's network namespace."""
    return sorted({address(words[1]) for words in _table(pid) if words[3] == LISTEN})


def abstract(pid: int, inodes: Optional[set[str]] = None) -> list[str]:
    """Names without a file (unix(7)) that are taken in its network namespace, or that these sockets have."""
    mine = None if inodes is None else {int(inode) for inode in inodes}
    found = set()
    with contextlib.suppress(OSError):
        for inode, attributes in loopback.inside(pid, lambda: list(_unix())) or ():
            name = attributes.get(DIAG_NAME, b"")
            if name.startswith(b"\0") and len(name) > 1 and (mine is None or inode in mine):
                found.add(name[1:].decode("utf-8", "backslashreplace"))
    return sorted(found)


def unaccepted(pid: int, inodes: set[str]) -> list[str]:
    """Connections that wait in a listening socket of the tree and that nobody accepts, as `here - there`."""
    found = _waiting(_table(pid), inodes)
    if found:
        time.sleep(SECOND_LOOK_S)
        found &= _waiting(_table(pid), inodes)
    return sorted(f"{address(here)} - {address(there)}" for here, there in found)


def _waiting(rows: Rows, inodes: set[str]) -> set[tuple[str, str]]:
    """A connection that was not accepted has no inode yet; its port tells whose it is."""
    ports = {words[1].rpartition(":")[2] for words in rows if words[3] == LISTEN and words[9] in inodes}
    return {
        (words[1], words[2])
        for words in rows
        if words[9] == "0" and words[3] == ESTABLISHED and words[1].rpartition(":")[2] in ports
    }


def _plain(hexadecimal: str) -> str:
    """An IPv4 address inside IPv6 and the same in IPv4 are one."""
    return hexadecimal[24:] if hexadecimal.startswith("0000000000000000FFFF0000") else hexadecimal


def address(hexadecimal: str) -> str:
    """`0100007F:1F90` as 127.0.0.1:8080; the kernel writes each 32-bit word in its own byte order."""
    host, _, port = hexadecimal.partition(":")
    words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
    raw = b"".join(words)
    if len(raw) == 4:
        text = ".".join(str(b) for b in raw)
    else:
        text = "[" + ":".join(raw[i : i + 2].hex() for i in range(0, 16, 2)) + "]"
    return f"{text}:{int(port, 16)}"


def unix_outside(pid: int, inodes: set[str]) -> list[str]:
    """Unix sockets of the tree whose peer is not in it, by the peer's name or the peer's inode."""
    mine = {int(inode) for inode in inodes}
    known: dict[int, dict[int, bytes]] = {}
    with contextlib.suppress(OSError):
        known = dict(loopback.inside(pid, lambda: list(_unix())) or ())
    waiting = {
        client
        for inode in mine & known.keys()
        for (client,) in struct.iter_unpack("=I", known[inode].get(DIAG_WAITING, b""))
    }
    found = []
    for inode in sorted(mine & known.keys() - waiting):
        attributes = known[inode]
        if DIAG_PEER not in attributes:
            continue
        (peer,) = struct.unpack("=I", attributes[DIAG_PEER])
        if peer not in mine:
            name = known.get(peer, {}).get(DIAG_NAME, b"").rstrip(b"\0").replace(b"\0", b"@")
            found.append(name.decode("utf-8", "backslashreplace") or f"socket:[{peer or inode}]")
    return sorted(set(found))


def _unix() -> Iterator[tuple[int, dict[int, bytes]]]:
    """Every unix socket of this network namespace: inode, and what sock_diag(7) says of it."""
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, UNIX_SHOW, 0xFFFFFFFF, 0xFFFFFFFF)
    for body in netlink.ask(netlink.SOCK_DIAG, SOCK_DIAG_BY_FAMILY, netlink.DUMP, request):
        (inode,) = struct.unpack_from("=I", body, 4)
        yield inode, netlink.attributes(body, 16)
