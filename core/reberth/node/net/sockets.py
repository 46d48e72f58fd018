"""The sockets of a process tree: connections and where they lead, and sockets of kinds that CRIU does not know."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from reberth.node.net import loopback, netlink

ESTABLISHED, LISTEN, TIME_WAIT = "01", "0A", ("06",)
NOT_A_CONNECTION = ("06", "07")  # TIME_WAIT has no owner, CLOSE is no connection
# A server has connections waiting at any moment: only those that are still there after this are one that stays so.
SECOND_LOOK_S = 0.1

Rows = list[list[str]]


def protocol(path: str) -> str:
    """Return the kernel's name for a socket's protocol (TCP, UNIX-STREAM, PACKET, MPTCP, ...).

    Empty if it tells none.
    """
    with contextlib.suppress(OSError):
        return os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode("ascii", "replace")
    return ""


def _table(pid: int, wanted: Callable[[list[str]], bool], names: tuple[str, ...] = ("tcp", "tcp6")) -> Rows:
    """Return the rows that are wanted of the sockets of a process's network: there may be very many others."""
    rows: Rows = []
    for name in names:
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
    """Return every address that is listened on in this process's network namespace."""
    return sorted({address(words[1]) for words in _table(pid, lambda words: words[3] == LISTEN)})


def unaccepted(pid: int, inodes: set[str]) -> list[str]:
    """Connections that wait in a listening socket of the tree and are not accepted, as `here - there`."""
    found = _waiting(pid, inodes)
    if found:
        time.sleep(SECOND_LOOK_S)
        found &= _waiting(pid, inodes)
    return sorted(f"{address(here)} - {address(there)}" for here, there in found)


def local(pid: int, holders: dict[str, int]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return what of a tree's sockets is bound to this very machine; `holders` maps each inode to a process that has
    it.

    First connections to a process outside the tree that is on this machine too, as `process PID: here - there`: they
    end when the tree leaves. Then the sockets bound to an address of this machine, each with `connected`; an address
    that the machine does not have needs none at the target either (IP_FREEBIND, groups of multicast).
    """
    mine = loopback.inside(pid, netlink.addresses) or []
    here = {ip_address(str(found["address"])) for found in mine}

    def held(words: list[str]) -> bool:
        return words[9] in holders

    rows = [(words, _host(words[1])) for words in _table(pid, held)]
    ends = {(_plain(words[1]), _plain(words[2])) for words, _ in rows}
    stay, bound = [], []
    for words, host in rows:
        connected = words[3] not in (LISTEN, *NOT_A_CONNECTION)
        peer = _host(words[2])
        outside = connected and (_plain(words[2]), _plain(words[1])) not in ends
        if outside and (peer.is_loopback or peer in here):
            stay.append(f"process {holders[words[9]]}: {address(words[1])} - {address(words[2])}")
        if words[3] not in TIME_WAIT and host in here and not host.is_loopback:
            bound.append(_bound("TCP", words, host, holders, connected))
    for words in _table(pid, held, ("udp", "udp6", "udplite", "udplite6")):
        if (host := _host(words[1])) in here and not host.is_loopback:
            bound.append(_bound("UDP", words, host, holders, False))
    return sorted(stay), sorted(bound, key=str)


def _bound(
    kind: str, words: list[str], host: IPv4Address | IPv6Address, holders: dict[str, int], connected: bool
) -> dict[str, Any]:
    port = int(words[1].rpartition(":")[2], 16)
    return {"kind": kind, "address": str(host), "port": port, "pid": holders[words[9]], "connected": connected}


def _host(hexadecimal: str) -> IPv4Address | IPv6Address:
    """Return the address without its port; an IPv4 address inside IPv6 is that IPv4 address."""
    found = ip_address(address(hexadecimal).rpartition(":")[0].strip("[]"))
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def addresses() -> dict[str, Any]:
    """Return the addresses of this machine, and the families in which a socket may be bound to one that it does
    not have.
    """
    nonlocal_bind = []
    for family in ("ipv4", "ipv6"):
        with contextlib.suppress(OSError), open(f"/proc/sys/net/{family}/ip_nonlocal_bind", encoding="ascii") as file:
            if file.read().strip() == "1":
                nonlocal_bind.append(family)
    return {"addresses": sorted(str(a["address"]) for a in netlink.addresses()), "nonlocal": nonlocal_bind}


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
