"""Addresses, routes and links of this node, asked of the kernel itself (rtnetlink): no process is started for it.

Numbers are those of linux/rtnetlink.h, linux/if_addr.h and linux/if_link.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

NEWADDR, DELADDR, GETADDR, GETLINK, GETROUTE = 20, 21, 22, 18, 26
REQUEST, ACK, DUMP, CREATE, EXCLUSIVE = 0x1, 0x4, 0x300, 0x400, 0x200
ERROR, DONE = 2, 3
SOCK_DIAG = 4  # a protocol of netlink(7), as 0 is that of the routes
IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 3, 4, 6, 8
IFLA_ADDRESS, IFLA_IFNAME = 1, 3
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_VIA = 1, 4, 5, 7, 18
F_SECONDARY, F_NODAD = 0x01, 0x02  # F_SECONDARY is IFA_F_TEMPORARY in IPv6
F_KEPT = 0x200  # noprefixroute: what of the flags is the administrator's
RTN_LOCAL, PROTO_KERNEL = 2, 2
FOREVER = 0xFFFFFFFF
TIMEOUT_S = 5.0


def _talk(kind: int, flags: int, payload: bytes, protocol: int = 0) -> list[bytes]:
    """Ask the kernel; returns the bodies of its messages, raises OSError with its errno."""
    return list(ask(protocol, kind, flags, payload))


def ask(protocol: int, kind: int, flags: int, payload: bytes) -> Iterator[bytes]:
    """Ask a part of the kernel (SOCK_DIAG or the routes); yield the bodies of its messages, raise OSError.

    One at a time: of sockets there may be as many as the users of this node like.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as kernel:
        kernel.settimeout(TIMEOUT_S)
        kernel.bind((0, 0))
        kernel.send(struct.pack("=IHHII", 16 + len(payload), kind, flags | REQUEST, 1, 0) + payload)
        while True:
            for got, body in _messages(kernel.recv(1 << 18)):
                if got == ERROR and (number := -struct.unpack_from("=i", body)[0]):
                    raise OSError(number, os.strerror(number))
                if got in (ERROR, DONE):
                    return
                yield body


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at + 16 : at + length]
        at += (max(length, 16) + 3) & ~3


def attributes(body: bytes, at: int) -> dict[int, bytes]:
    """Return the attributes of a message from this offset on: kind -> value."""
    found = {}
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        found[kind & 0x3FFF] = body[at + 4 : at + length]
        at += (max(length, 4) + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "backslashreplace")


def _ip(value: bytes) -> str:
    return str(ipaddress.ip_address(value)) if value else ""


def family_of(address: str) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if ipaddress.ip_address(address).version == 4 else socket.AF_INET6


def addresses() -> list[dict[str, Any]]:
    """Return every address of every interface of this network namespace, as `add` takes them."""
    return [_address(body) for body in _talk(GETADDR, DUMP, struct.pack("=BBBBi", 0, 0, 0, 0, 0))]


def _address(body: bytes) -> dict[str, Any]:
    family, prefix_len, flags, scope, index = struct.unpack_from("=BBBBi", body)
    words = attributes(body, 8)
    here = words.get(IFA_LOCAL) or words.get(IFA_ADDRESS, b"")
    peer = words.get(IFA_ADDRESS, b"")
    preferred_s, valid_s = struct.unpack_from("=II", words.get(IFA_CACHEINFO, b"\xff" * 8))
    return {
        "family": family,
        "address": _ip(here),
        "peer": _ip(peer) if peer != here else "",
        "prefix_len": prefix_len,
        "ifname": _ifname(index),
        "broadcast": _ip(words.get(IFA_BROADCAST, b"")),
        "label": _text(words.get(IFA_LABEL, b"")),
        "scope": scope,
        "flags": struct.unpack("=I", words[IFA_FLAGS])[0] if IFA_FLAGS in words else flags,
        "preferred_s": preferred_s,
        "valid_s": valid_s,
    }


def _ifname(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:  # gone between the two looks
        return ""


def find(address: str) -> dict[str, Any] | None:
    """Return where an address is on this node; None when it is not."""
    return next((a for a in addresses() if a["address"] == address), None)


def _change(kind: int, flags: int, place: dict[str, Any], more: bytes = b"") -> None:
    packed = ipaddress.ip_address(place["address"]).packed
    index = socket.if_nametoindex(place["ifname"])
    family, scope = family_of(place["address"]), int(place.get("scope", 0))
    body = struct.pack("=BBBBi", family, int(place["prefix_len"]), 0, scope, index)
    body += _attribute(IFA_LOCAL, packed) + _attribute(IFA_ADDRESS, packed)
    _talk(kind, flags | ACK, body + more)


def add(place: dict[str, Any]) -> None:
    """Put an address on an interface; one that is there already is no error.

    `place` has address, prefix_len, ifname and, where they are known, broadcast, label, scope, flags. In IPv6 the
    kernel's own search for duplicates is left out: it would keep the address unusable for a second.
    """
    six = family_of(place["address"]) == socket.AF_INET6
    flags = int(place.get("flags", 0)) & F_KEPT | (F_NODAD if six else 0)
    more = _attribute(IFA_FLAGS, struct.pack("=I", flags))
    if place.get("broadcast"):
        more += _attribute(IFA_BROADCAST, ipaddress.ip_address(place["broadcast"]).packed)
    if place.get("label"):
        more += _attribute(IFA_LABEL, place["label"].encode() + b"\0")
    if place.get("preferred_s") == 0:
        more += _attribute(IFA_CACHEINFO, struct.pack("=IIII", 0, FOREVER, 0, 0))
    try:
        _change(NEWADDR, CREATE | EXCLUSIVE, place, more)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise


def delete(place: dict[str, Any]) -> None:
    """Take an address from an interface; one that is not there (any more) is no error."""
    try:
        _change(DELADDR, 0, place)
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO):
            raise


def links() -> dict[str, dict[str, Any]]:
    """Return the interfaces by name: hardware address and kind (1: Ethernet)."""
    found = {}
    for body in _talk(GETLINK, DUMP, struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0)):
        words = attributes(body, 16)
        mac = ":".join(f"{byte:02x}" for byte in words.get(IFLA_ADDRESS, b""))
        found[_text(words.get(IFLA_IFNAME, b""))] = {"mac": mac, "kind": struct.unpack_from("=H", body, 2)[0]}
    return found


def route_to(address: str) -> dict[str, Any] | None:
    """Return how this node would send to an address: interface, and whether there is a gateway.

    None without a route.
    """
    packed = ipaddress.ip_address(address).packed
    head = struct.pack("=BBBBBBBBI", family_of(address), 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
    try:
        bodies = _talk(GETROUTE, ACK, head + _attribute(RTA_DST, packed))
    except OSError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return None
        raise
    return _route(bodies[0]) if bodies else None


def _route(body: bytes) -> dict[str, Any]:
    words = attributes(body, 12)
    index = struct.unpack("=i", words[RTA_OIF])[0] if RTA_OIF in words else 0
    return {
        "ifname": _ifname(index) if index else "",
        "gateway": bool(words.get(RTA_GATEWAY) or words.get(RTA_VIA)),
        "source": _ip(words.get(RTA_PREFSRC, b"")),
        "local": body[7] == RTN_LOCAL,
        "by_kernel": body[5] == PROTO_KERNEL,
    }


def routes_from(address: str) -> int:
    """Return how many routes, but those that the kernel made for it, name this address as their source."""
    bodies = _talk(GETROUTE, DUMP, struct.pack("=BBBBBBBBI", family_of(address), 0, 0, 0, 0, 0, 0, 0, 0))
    routes = [_route(body) for body in bodies]
    return sum(1 for route in routes if route["source"] == address and not route["by_kernel"])
