"""Who has an address on this link, and telling the link that we have it now: ARP (RFC 826, 5227) and NDP (RFC 4861).

Frames are built here and sent through a packet socket, so no tool is needed and no process is started.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
import time

ARP, IPV6 = 0x0806, 0x86DD
REQUEST, REPLY = 1, 2
SOLICIT, ADVERTISE = 135, 136
EVERYBODY = b"\xff" * 6
ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
NOBODY_4, NOBODY_6 = bytes(4), bytes(16)
PROBES = 3


def _arp(op: int, mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    head = EVERYBODY + mac + struct.pack("!H", ARP)
    return head + struct.pack("!HHBBH", 1, 0x0800, 6, 4, op) + mac + sender + target_mac + target


def _icmp6(mac: bytes, source: bytes, to: bytes, message: bytes) -> bytes:
    """Return an ICMPv6 message to a multicast group, in a frame; hop limit 255 as all of NDP has it."""
    pseudo = source + to + struct.pack("!I3xB", len(message), 58)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    head = b"\x33\x33" + to[-4:] + mac + struct.pack("!H", IPV6)
    return head + struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + source + to + message


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def question(address: str, mac: bytes) -> bytes:
    """Return the frame that asks who has an address and tells nothing: its sender has no address yet."""
    packed = ipaddress.ip_address(address).packed
    if len(packed) == 4:
        return _arp(REQUEST, mac, NOBODY_4, bytes(6), packed)
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + packed[13:]
    return _icmp6(mac, NOBODY_6, group, struct.pack("!BBHI", SOLICIT, 0, 0, 0) + packed)


def announcements(address: str, mac: bytes, router: bool = False) -> list[bytes]:
    """Return the frames that tell everybody where an address is now.

    Both forms of gratuitous ARP, as some take only one of them; in IPv6 an advertisement with the override flag.
    """
    packed = ipaddress.ip_address(address).packed
    if len(packed) == 4:
        return [_arp(REQUEST, mac, packed, bytes(6), packed), _arp(REPLY, mac, packed, mac, packed)]
    flags = 0x20000000 | (0x80000000 if router else 0)
    message = struct.pack("!BBHI", ADVERTISE, 0, 0, flags) + packed + b"\x02\x01" + mac
    return [_icmp6(mac, packed, ALL_NODES, message)]


def claimed_by(frame: bytes, address: str) -> str:
    """Return the hardware address that says in this frame that it has the address; empty when none does."""
    packed = ipaddress.ip_address(address).packed
    kind = int.from_bytes(frame[12:14], "big")
    mac = b""
    if kind == ARP and len(packed) == 4 and len(frame) >= 42 and frame[28:32] == packed:
        mac = frame[22:28]
    elif kind == IPV6 and len(frame) >= 78 and frame[20] == 58 and frame[54] == ADVERTISE and frame[62:78] == packed:
        option = frame[78:86]
        mac = option[2:8] if option[:2] == b"\x02\x01" and len(option) == 8 else frame[6:12]
    return _words(mac)


def _words(mac: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in mac)


def _packets(address: str, ifname: str) -> socket.socket:
    kind = ARP if ipaddress.ip_address(address).version == 4 else IPV6
    # protocol 0 hears nothing: what other interfaces hear before the binding is none of our business
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        link.bind((ifname, kind))
    except OSError:
        link.close()
        raise
    return link


def probe(address: str, ifname: str, ignore: list[str], wait_s: float) -> str:
    """Ask on this link who has an address; returns a hardware address that is not to be ignored, or nothing."""
    with _packets(address, ifname) as link:
        mac = link.getsockname()[4]
        known = {*ignore, _words(mac)}
        begun, sent = time.monotonic(), 0
        while True:
            passed_s = time.monotonic() - begun
            if sent < PROBES and passed_s >= sent * wait_s / PROBES:
                link.send(question(address, mac))
                sent += 1
                continue
            left_s = (wait_s * sent / PROBES if sent < PROBES else wait_s) - passed_s
            if left_s <= 0:
                return ""
            link.settimeout(left_s)
            with contextlib.suppress(TimeoutError, socket.timeout):
                found = claimed_by(link.recv(2048), address)
                if found and found not in known:
                    return found


def announce(address: str, ifname: str) -> None:
    """Tell everybody on this link that the address is here.

    It is part of the frozen window, and closing a packet socket waits for all processors (7 to 15 ms, tried
    2026-11-23): that is left to a thread.
    """
    link = _packets(address, ifname)
    try:
        for frame in announcements(address, link.getsockname()[4], _is_router(ifname)):
            link.send(frame)
    finally:
        threading.Thread(target=link.close, daemon=True).start()


def _is_router(ifname: str) -> bool:
    """Tell whether this node routes IPv6: a neighbour that takes it for a router must go on doing so."""
    with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{ifname}/forwarding", encoding="ascii") as file:
        return file.read().strip() not in ("", "0")
    return False
