"""The unix sockets of a process tree, by sock_diag(7): where they lead, and what waits in their queues."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Optional

from reberth.node.net import loopback, netlink

# linux/sock_diag.h and linux/unix_diag.h: name, inode of the path, peer, waiting connections, bytes in the queues.
SOCK_DIAG_BY_FAMILY, SHOW = 20, 0x1 | 0x2 | 0x4 | 0x8 | 0x10
NAME, PEER, WAITING, QUEUES, SHUTDOWN = 0, 2, 3, 4, 6
TYPE = -1  # our own key: the socket's type
SHUT_BOTH = 3
# A server has connections waiting at any moment: only those that are still there after this are one that stays so.
SECOND_LOOK_S = 0.1

Known = dict[int, dict[int, bytes]]


def _known(pid: int, mine: set[int]) -> Known:
    """Return these unix sockets and what they have to do with: inode, and what the kernel says of it.

    That are their peers, the clients that wait in them, and the listeners in which they wait. Of others there may be
    as many in this network namespace as the users of the node like: these are not kept.
    """
    if not mine:
        return {}
    with contextlib.suppress(OSError):
        found = loopback.inside(pid, lambda: {i: a for i, a in _all() if i in mine or not mine.isdisjoint(_clients(a))})
        known: Known = found or {}
        others = {other for inode in mine & known.keys() for other in (*_clients(known[inode]), _peer(known[inode]))}
        others -= {0, *known}
        if others:
            known.update(loopback.inside(pid, lambda: {i: a for i, a in _all() if i in others}) or {})
        return known
    return {}


def _all() -> Iterator[tuple[int, dict[int, bytes]]]:
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, SHOW, 0xFFFFFFFF, 0xFFFFFFFF)
    for body in netlink.ask(netlink.SOCK_DIAG, SOCK_DIAG_BY_FAMILY, netlink.DUMP, request):
        (inode,) = struct.unpack_from("=I", body, 4)
        yield inode, {**netlink.attributes(body, 16), TYPE: body[1:2]}


def _name(attributes: dict[int, bytes]) -> str:
    return attributes.get(NAME, b"").rstrip(b"\0").replace(b"\0", b"@").decode("utf-8", "backslashreplace")


def _clients(attributes: dict[int, bytes]) -> list[int]:
    """Return the clients that wait to be accepted in this socket."""
    return [client for (client,) in struct.iter_unpack("=I", attributes.get(WAITING, b""))]


def _peer(attributes: dict[int, bytes]) -> int:
    return int(struct.unpack("=I", attributes.get(PEER, b"\0" * 4))[0])


def _waiting(known: Known) -> dict[int, int]:
    """Clients that wait to be accepted, each with the listening socket."""
    return {client: inode for inode, attributes in known.items() for client in _clients(attributes)}


def abstract(pid: int, inodes: Optional[set[str]] = None) -> list[str]:
    """Names without a file (unix(7)) that are taken in its network namespace, or that these sockets have."""
    if inodes is not None and not inodes:
        return []
    mine = None if inodes is None else {int(inode) for inode in inodes}

    def names() -> set[bytes]:
        found = (attributes.get(NAME, b"") for inode, attributes in _all() if mine is None or inode in mine)
        return {name[1:] for name in found if name.startswith(b"\0") and len(name) > 1}

    with contextlib.suppress(OSError):
        return sorted(name.decode("utf-8", "backslashreplace") for name in loopback.inside(pid, names) or ())
    return []


def folders(pid: int, inodes: set[str]) -> list[str]:
    """Return the folders of the files to which these sockets are bound: CRIU binds them there again."""
    mine = {int(inode) for inode in inodes}

    def names() -> set[bytes]:
        return {attributes.get(NAME, b"").rstrip(b"\0") for inode, attributes in _all() if inode in mine}

    with contextlib.suppress(OSError):
        found = (loopback.inside(pid, names) or set()) if mine else set()
        return sorted({os.path.dirname(os.fsdecode(name)) for name in found if name.startswith(b"/")})
    return []


def outside(pid: int, inodes: set[str]) -> list[str]:
    """Unix sockets of the tree whose peer is not in it, by the peer's name or the peer's inode.

    The kernel calls a peer 0 that has no inode: one that every holder has closed is no peer outside, one that waits in
    the queue of a listener outside is.
    """
    mine, found = {int(inode) for inode in inodes}, []
    known = _known(pid, mine)
    waiting = _waiting(known)
    for inode in sorted(mine & known.keys()):
        attributes = known[inode]
        if PEER not in attributes or waiting.get(inode) in mine:
            continue
        peer = _peer(attributes)
        if peer in mine or (not peer and inode not in waiting and _closed(attributes)):
            continue
        other = peer or waiting.get(inode, 0)
        found.append(_name(known.get(other, {})) or f"socket:[{peer or inode}]")
    return sorted(set(found))


def _closed(attributes: dict[int, bytes]) -> bool:
    """Tell whether a peer without an inode is closed.

    A connection is shut both ways then, and datagrams have no queue.
    """
    shut = attributes.get(SHUTDOWN, b"\0")[0] == SHUT_BOTH
    return shut or attributes[TYPE] == bytes([socket.SOCK_DGRAM])


def unaccepted(pid: int, inodes: set[str]) -> list[str]:
    """Listening sockets of the tree, by name, in which a connection waits that CRIU cannot carry.

    CRIU makes a waiting connection anew when its client is in the tree and has sent nothing yet.
    """
    found = _in_flight(pid, inodes)
    if found:
        time.sleep(SECOND_LOOK_S)
        found = {pair: name for pair, name in _in_flight(pid, inodes).items() if pair in found}
    return sorted(set(found.values()))


def _in_flight(pid: int, inodes: set[str]) -> dict[tuple[int, int], str]:
    mine, found = {int(inode) for inode in inodes}, {}
    known = _known(pid, mine)
    for client, inode in _waiting(known).items():
        sent = struct.unpack_from("=II", known.get(client, {}).get(QUEUES, b"\0" * 8))[1]
        if inode in mine and (sent or client not in mine):
            found[(inode, client)] = _name(known[inode]) or f"socket:[{inode}]"
    return found
