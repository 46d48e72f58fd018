"""The sockets of a process tree: connections and where they lead, and sockets of kinds that CRIU does not know."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
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


def _table(pid: int, wanted: Callable[[list[str]], bool]) -> Rows:
    """Return the rows that are wanted of the TCP sockets of a process's network: there may be very many others."""
    rows: Rows = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{name}", encoding="ascii") as lines:
            next(lines, None)
            rows += [words for words in map(str.split, lines) if wanted(words)]
    return rows


def tcp(pid: int, inodes: set[str]) -> tuple[int, list[str], list[str]]:
    """Established connections with both ends in the tree, those with an end outside, and listening addresses."""
    pairs: dict[tuple[str, str], str] = {}
    listening: set[str] = set()
    for words in _table(pid, lambda words: words[9] in inodes):
        if words[3] == LISTEN:
            listening.add(address(words[1]))
        elif words[3] not in NOT_A_CONNECTION:
            pairs[(_plain(words[1]), _plain(words[2]))] = words[2]
    outside = [f"{address(here)} - {address(there)}" for here, there in pairs if (there, here) not in pairs]
    return len(pairs) - len(outside), sorted(outside), sorted(listening)


def connections(pid: int, inodes: set[str]) -> set[tuple[str, str]]:
    """Both addresses of each connection of these sockets, this end first."""
    rows = _table(pid, lambda words: words[9] in inodes and words[3] not in (LISTEN, *NOT_A_CONNECTION))
    return {(address(words[1]), address(words[2])) for words in rows}


def listening(pid: int) -> list[str]:
    """Every address that is listened on in this process's network namespace."""
    return sorted({address(words[1]) for words in _table(pid, lambda words: words[3] == LISTEN)})


def abstract(pid: int, inodes: Optional[set[str]] = None) -> list[str]:
    """Names without a file (unix(7)) that are taken in its network namespace, or that these sockets have."""
    if inodes is not None and not inodes:
        return []
    mine = None if inodes is None else {int(inode) for inode in inodes}

    def names() -> set[bytes]:
        found = (attributes.get(DIAG_NAME, b"") for _, attributes in _unix(mine))
        return {name[1:] for name in found if name.startswith(b"\0") and len(name) > 1}

    with contextlib.suppress(OSError):
        return sorted(name.decode("utf-8", "backslashreplace") for name in loopback.inside(pid, names) or ())
    return []


def unaccepted(pid: int, inodes: set[str]) -> list[str]:
    """Connections that wait in a listening socket of the tree and that nobody accepts, as `here - there`."""
    found = _waiting(pid, inodes)
    if found:
        time.sleep(SECOND_LOOK_S)
        found &= _waiting(pid, inodes)
    return sorted(f"{address(here)} - {address(there)}" for here, there in found)


def _waiting(pid: int, inodes: set[str]) -> set[tuple[str, str]]:
    """A connection that was not accepted has no inode yet; its port tells whose it is."""
    listening = _table(pid, lambda words: words[3] == LISTEN and words[9] in inodes)
    ports = {words[1].rpartition(":")[2] for words in listening}

    def waits(words: list[str]) -> bool:
        return words[9] == "0" and words[3] == ESTABLISHED and words[1].rpartition(":")[2] in ports

    return {(words[1], words[2]) for words in _table(pid, waits)} if ports else set()


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
    known = _unix_of(pid, mine)
    waiting = {
        client
        for inode in mine & known.keys()
        for (client,) in struct.iter_unpack("=I", known[inode].get(DIAG_WAITING, b""))
    }
    peers = {
        inode: int(struct.unpack("=I", known[inode][DIAG_PEER])[0])
        for inode in mine & known.keys() - waiting
        if DIAG_PEER in known[inode]
    }
    outside = {inode: peer for inode, peer in peers.items() if peer not in mine}
    theirs = _unix_of(pid, set(outside.values())) if outside else {}
    found = set()
    for inode, peer in outside.items():
        name = theirs.get(peer, {}).get(DIAG_NAME, b"").rstrip(b"\0").replace(b"\0", b"@")
        found.add(name.decode("utf-8", "backslashreplace") or f"socket:[{peer or inode}]")
    return sorted(found)


def _unix_of(pid: int, wanted: set[int]) -> dict[int, dict[int, bytes]]:
    """What sock_diag(7) says of these unix sockets in a process's network."""
    if not wanted:
        return {}
    with contextlib.suppress(OSError):
        return loopback.inside(pid, lambda: dict(_unix(wanted))) or {}
    return {}


def _unix(wanted: Optional[set[int]]) -> Iterator[tuple[int, dict[int, bytes]]]:
    """These unix sockets of this network namespace, or every one: inode, and what sock_diag(7) says of it."""
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, UNIX_SHOW, 0xFFFFFFFF, 0xFFFFFFFF)
    for body in netlink.ask(netlink.SOCK_DIAG, SOCK_DIAG_BY_FAMILY, netlink.DUMP, request):
        (inode,) = struct.unpack_from("=I", body, 4)
        if wanted is None or inode in wanted:
            yield inode, netlink.attributes(body, 16)
