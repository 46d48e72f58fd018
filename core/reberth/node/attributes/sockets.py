"""Options and multicast groups of sockets: read through a copy of the descriptor, set again through one of the copy's.

The kernel lists the groups of an interface, not those of a socket. But it tells whether a socket is in a group: by
MCAST_MSFILTER it says EADDRNOTAVAIL to the others (net/ipv4/igmp.c, net/ipv6/mcast.c).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reberth.node.attributes import ids
from reberth.node.system import procs

MOST_SOCKETS = 4000  # some 0.4 s; a tree with more keeps what CRIU keeps, and is told so
_DOMAIN, _MCAST_JOIN_GROUP, _MCAST_MSFILTER = 39, 42, 48
_GROUP_BYTES, _ADDRESS_BYTES, _MOST_SOURCES = 144, 128, 64
_GENERAL = {12: "SO_PRIORITY", 18: "SO_RCVLOWAT", 29: "SO_TIMESTAMP", 34: "SO_PASSSEC", 35: "SO_TIMESTAMPNS"}
_GENERAL |= {36: "SO_MARK", 37: "SO_TIMESTAMPING", 40: "SO_RXQ_OVFL", 45: "SO_SELECT_ERR_QUEUE", 46: "SO_BUSY_POLL"}
_IP4 = {1: "IP_TOS", 2: "IP_TTL", 6: "IP_RECVOPTS", 7: "IP_RETOPTS", 8: "IP_PKTINFO", 10: "IP_MTU_DISCOVER"}
_IP4 |= {11: "IP_RECVERR", 12: "IP_RECVTTL", 13: "IP_RECVTOS", 15: "IP_FREEBIND", 19: "IP_TRANSPARENT"}
_IP4 |= {20: "IP_RECVORIGDSTADDR", 21: "IP_MINTTL", 24: "IP_BIND_ADDRESS_NO_PORT", 25: "IP_RECVFRAGSIZE"}
_IP4 |= {32: "IP_MULTICAST_IF", 33: "IP_MULTICAST_TTL", 34: "IP_MULTICAST_LOOP", 49: "IP_MULTICAST_ALL"}
_IP6 = {16: "IPV6_UNICAST_HOPS", 17: "IPV6_MULTICAST_IF", 18: "IPV6_MULTICAST_HOPS", 19: "IPV6_MULTICAST_LOOP"}
_IP6 |= {23: "IPV6_MTU_DISCOVER", 25: "IPV6_RECVERR", 29: "IPV6_MULTICAST_ALL", 49: "IPV6_RECVPKTINFO"}
_IP6 |= {51: "IPV6_RECVHOPLIMIT", 62: "IPV6_DONTFRAG", 66: "IPV6_RECVTCLASS", 67: "IPV6_TCLASS"}
_IP6 |= {70: "IPV6_AUTOFLOWLABEL", 73: "IPV6_MINHOPCOUNT", 75: "IPV6_TRANSPARENT", 78: "IPV6_FREEBIND"}
_TCP = {1: "TCP_NODELAY", 4: "TCP_KEEPIDLE", 5: "TCP_KEEPINTVL", 6: "TCP_KEEPCNT", 7: "TCP_SYNCNT", 8: "TCP_LINGER2"}
_TCP |= {9: "TCP_DEFER_ACCEPT", 13: "TCP_CONGESTION", 16: "TCP_THIN_LINEAR_TIMEOUTS", 18: "TCP_USER_TIMEOUT"}
_TCP |= {23: "TCP_FASTOPEN", 25: "TCP_NOTSENT_LOWAT", 27: "TCP_SAVE_SYN", 36: "TCP_INQ"}
_UDP = {101: "UDP_NO_CHECK6_TX", 102: "UDP_NO_CHECK6_RX", 103: "UDP_SEGMENT", 104: "UDP_GRO"}
_NETLINK = {3: "NETLINK_PKTINFO", 4: "NETLINK_BROADCAST_ERROR", 5: "NETLINK_NO_ENOBUFS", 10: "NETLINK_CAP_ACK"}
_NETLINK |= {11: "NETLINK_EXT_ACK", 12: "NETLINK_GET_STRICT_CHK"}
_SOL_NETLINK = 270
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
Network = tuple[dict[str, int], list[tuple[str, str]]]  # interfaces by name; groups as (interface, address)
_INTERFACE = (socket.IPPROTO_IPV6, 17)  # the option whose value is the number of an interface


def save(pids: Iterable[int]) -> dict[str, Any]:
    """Return `sockets` (own number of the process, descriptor, place in `sets`, groups), and `left` that were too many.

    `sets` holds each combination of options once: level, option, and value in hex. Shared sockets are told once.
    """
    sets: dict[tuple[tuple[int, int, str], ...], int] = {}
    rows: list[list[Any]] = []
    seen: set[str] = set()
    left = 0
    for number, pid in ids.processes(pids).items():
        network = _network(pid)
        for fd in ids.descriptors(pid, "socket:["):
            name = procs.link(f"/proc/{pid}/fd/{fd}")
            if name in seen:
                continue
            seen.add(name)
            if len(rows) >= MOST_SOCKETS:
                left += 1
                continue
            with contextlib.suppress(OSError), ids.borrowed(pid, fd) as copy, _opened(copy) as one:
                options = tuple(_options(one, network[0]))
                rows.append([number, fd, sets.setdefault(options, len(sets)), list(_groups(one, network))])
    return {"sets": [list(map(list, options)) for options in sets], "sockets": rows, "left": left}


def set_again(pids: Iterable[int], saved: Mapping[str, Any]) -> list[str]:
    """Give each socket of the copy its options and groups; return what could not be set, in words."""
    lost, known = [], ids.processes(pids)
    if saved.get("left"):
        lost.append(f"the options of {saved['left']} sockets, which are more than {MOST_SOCKETS}")
    networks: dict[int, Network] = {}
    for number, fd, place, groups in saved["sockets"]:
        pid = known.get(number)
        if pid is None:
            continue
        if pid not in networks:
            networks[pid] = _network(pid)
        indices = networks[pid][0]
        where = f"of the socket behind descriptor {fd} of process {number}"
        try:
            with ids.borrowed(pid, fd) as copy, _opened(copy) as one:
                lost += [f"{name} {where}" for name in _set_options(one, saved["sets"][place], indices)]
                lost += [f"the group {name} {where}" for name in _join(one, indices, groups)]
        except OSError:
            lost.append(f"the options {where}")
    return lost


@contextlib.contextmanager
def _opened(fd: int) -> Iterator[socket.socket]:
    one = socket.socket(fileno=os.dup(fd))
    try:
        yield one
    finally:
        one.close()


def _tables(one: socket.socket) -> Iterator[tuple[int, dict[int, str]]]:
    yield socket.SOL_SOCKET, _GENERAL
    family = one.getsockopt(socket.SOL_SOCKET, _DOMAIN)
    if family in (socket.AF_INET, socket.AF_INET6):
        yield socket.IPPROTO_IP, _IP4
        if family == socket.AF_INET6:
            yield socket.IPPROTO_IPV6, _IP6
        if one.type == socket.SOCK_STREAM and one.proto == socket.IPPROTO_TCP:
            yield socket.IPPROTO_TCP, _TCP
        elif one.proto == socket.IPPROTO_UDP:
            yield socket.IPPROTO_UDP, _UDP
    elif family == socket.AF_NETLINK:
        yield _SOL_NETLINK, _NETLINK


def _options(one: socket.socket, indices: Mapping[str, int]) -> Iterator[tuple[int, int, str]]:
    for level, table in _tables(one):
        for option in table:
            with contextlib.suppress(OSError):
                value = one.getsockopt(level, option, 16)
                yield level, option, _named(level, option, value, indices)


def _named(level: int, option: int, value: bytes, indices: Mapping[str, int]) -> str:
    """Return a value in hex; that of an interface as its name, as numbers differ between nodes and networks."""
    if (level, option) == _INTERFACE:
        number = int.from_bytes(value[:4], sys.byteorder)
        return next((f"dev:{name}" for name, index in indices.items() if index == number), value.hex())
    return value.hex()


def _set_options(one: socket.socket, wanted: Iterable[Any], indices: Mapping[str, int]) -> Iterator[str]:
    names = {(level, option): name for level, table in _tables(one) for option, name in table.items()}
    for level, option, text in wanted:
        name = names.get((level, option))
        if name is None:
            continue
        try:
            value = one.getsockopt(level, option, 16)
            if _named(level, option, value, indices) == text:
                continue
            if text.startswith("dev:"):
                one.setsockopt(level, option, indices[text[4:]])
            else:
                one.setsockopt(level, option, bytes.fromhex(text))
        except (OSError, KeyError):
            yield name


# Groups


def _network(pid: int) -> Network:
    """Return the interfaces of a process's network by name, and the groups that they are in (name, address).

    The groups that the kernel joins by itself are left out.
    """
    indices: dict[str, int] = {}
    found, device = [], ""
    for line in procs.read_some(f"/proc/{pid}/net/igmp", 1 << 20).decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        if not line.startswith("\t"):
            device = words[1]
            indices[device] = int(words[0])
        else:
            address = socket.inet_ntop(socket.AF_INET, bytes.fromhex(words[0])[::-1])
            found += [] if address == "224.0.0.1" else [(device, address)]
    for line in procs.read_some(f"/proc/{pid}/net/igmp6", 1 << 20).decode("ascii", "replace").splitlines():
        number, device, word = line.split()[:3]
        indices[device] = int(number)
        address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(word))
        if address not in ("ff01::1", "ff02::1") and not address.startswith("ff02::1:ff"):
            found.append((device, address))
    return indices, found


def _address(text: str) -> bytes:
    """Return a sockaddr_storage."""
    if ":" in text:
        packed = struct.pack("=HHI", socket.AF_INET6, 0, 0) + socket.inet_pton(socket.AF_INET6, text)
    else:
        packed = struct.pack("=HH", socket.AF_INET, 0) + socket.inet_pton(socket.AF_INET, text)
    return packed.ljust(_ADDRESS_BYTES, b"\0")


def _level(address: str) -> int:
    return socket.IPPROTO_IPV6 if ":" in address else socket.IPPROTO_IP


def _groups(one: socket.socket, network: Network) -> Iterator[list[str]]:
    """Yield the groups that a socket is in: interface, address, and its filter in hex where it has one."""
    if one.type == socket.SOCK_STREAM or one.getsockopt(socket.SOL_SOCKET, _DOMAIN) not in _FAMILIES:
        return
    libc = ctypes.CDLL(None)
    indices, known = network
    room = _GROUP_BYTES + _MOST_SOURCES * _ADDRESS_BYTES
    for device, address in known:
        head = struct.pack("=II", indices[device], 0) + _address(address) + struct.pack("=II", 0, _MOST_SOURCES)
        buffer = ctypes.create_string_buffer(head, room)
        size = ctypes.c_uint32(room)
        if libc.getsockopt(one.fileno(), _level(address), _MCAST_MSFILTER, buffer, ctypes.byref(size)) == 0:
            mode, sources = struct.unpack_from("=II", buffer.raw, _GROUP_BYTES - 8)
            plain = mode == 0 and sources == 0  # MCAST_EXCLUDE without a source: all that comes
            length = _GROUP_BYTES + min(sources, _MOST_SOURCES) * _ADDRESS_BYTES
            yield [device, address, "" if plain else buffer.raw[:length].hex()]


def _join(one: socket.socket, indices: Mapping[str, int], groups: Iterable[list[str]]) -> Iterator[str]:
    for device, address, filtered in groups:
        if device not in indices:
            yield f"{address} on {device}"
            continue
        index = struct.pack("=II", indices[device], 0)
        try:
            one.setsockopt(_level(address), _MCAST_JOIN_GROUP, index + _address(address))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # it is in the group already
                yield f"{address} on {device}"
                continue
        try:
            if filtered:
                one.setsockopt(_level(address), _MCAST_MSFILTER, index + bytes.fromhex(filtered)[8:])
        except OSError:
            yield f"{address} on {device} with its filter"
