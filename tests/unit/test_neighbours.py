"""Frames of ARP and NDP and messages of rtnetlink, byte by byte; who claims an address, and how it is asked for."""

from __future__ import annotations

import errno
import struct
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from reberth.node.net import neighbours, netlink

MAC = bytes.fromhex("027262c63365")
WORDS = "02:72:62:c6:33:65"
V4, V6 = "198.51.100.100", "2001:db8::64"


def raw(text: str) -> bytes:
    return bytes.fromhex(text.replace("\n", " "))


# Frames, written down by hand from RFC 826, 5227, 4861 and 4443


def test_the_arp_probe_has_no_sender_address():
    assert neighbours.question(V4, MAC) == raw(
        "ffffffffffff 027262c63365 0806 0001 0800 06 04 0001 027262c63365 00000000 000000000000 c6336464"
    )


def test_gratuitous_arp_in_both_forms():
    request, reply = neighbours.announcements(V4, MAC)
    head = "ffffffffffff 027262c63365 0806 0001 0800 06 04"
    assert request == raw(f"{head} 0001 027262c63365 c6336464 000000000000 c6336464")
    assert reply == raw(f"{head} 0002 027262c63365 c6336464 027262c63365 c6336464")


def icmp_sum(frame: bytes) -> int:
    """The ones' complement sum over pseudo header and message; a right checksum makes it 0xffff."""
    message = frame[54:]
    data = frame[22:54] + struct.pack("!II", len(message), 58) + message
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total > 0xFFFF:
        total = total % 0x10000 + total // 0x10000
    return total


def test_the_neighbour_solicitation_has_no_sender_address():
    frame = neighbours.question(V6, MAC)
    assert frame[:14] == raw("3333ff000064 027262c63365 86dd")
    assert frame[14:54] == raw("60000000 0018 3a ff" + "00" * 16 + "ff0200000000000000000001ff000064")
    assert frame[54:56] + frame[58:] == raw("8700 00000000 20010db8000000000000000000000064")
    assert icmp_sum(frame) == 0xFFFF


@pytest.mark.parametrize(("router", "flags"), [(False, "20000000"), (True, "a0000000")])
def test_the_neighbour_advertisement_overrides_and_goes_to_all(router, flags):
    (frame,) = neighbours.announcements(V6, MAC, router)
    packed = "20010db8000000000000000000000064"
    assert frame[:14] == raw("333300000001 027262c63365 86dd")
    assert frame[14:54] == raw(f"60000000 0020 3a ff {packed} ff020000000000000000000000000001")
    assert frame[54:56] + frame[58:] == raw(f"8800 {flags} {packed} 0201 027262c63365")
    assert icmp_sum(frame) == 0xFFFF


def test_who_claims_an_address():
    for frame in (*neighbours.announcements(V4, MAC), neighbours.announcements(V4, MAC)[1] + b"\0" * 18):
        assert neighbours.claimed_by(frame, V4) == WORDS
        assert neighbours.claimed_by(frame, "198.51.100.101") == ""
        assert neighbours.claimed_by(frame, V6) == ""
    (advertised,) = neighbours.announcements(V6, MAC)
    assert neighbours.claimed_by(advertised, V6) == WORDS
    assert neighbours.claimed_by(advertised[:78], V6) == WORDS  # without the option: the frame's own sender
    assert neighbours.claimed_by(advertised, "2001:db8::65") == ""
    for asked in (neighbours.question(V4, MAC), neighbours.question(V6, MAC)):
        assert neighbours.claimed_by(asked, V4) == neighbours.claimed_by(asked, V6) == ""
    for cut in range(78):
        assert neighbours.claimed_by(advertised[:cut], V6) == ""
    for cut in range(42):
        assert neighbours.claimed_by(neighbours.announcements(V4, MAC)[0][:cut], V4) == ""


class Link:
    """A packet socket on which some frames arrive; its time-outs make the clock go on."""

    def __init__(self, clock, *frames):
        self.clock, self.frames, self.sent, self.left_s = clock, list(frames), [], 0.0

    def getsockname(self):
        return ("eth0", 0, 0, 1, MAC)

    def send(self, frame):
        self.sent.append((round(self.clock[0], 3), frame))

    def close(self):
        self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def settimeout(self, seconds):
        self.left_s = seconds

    def recv(self, limit):
        if self.frames:
            return self.frames.pop(0)
        self.clock[0] += self.left_s + 1e-6
        raise TimeoutError


@pytest.fixture
def link(monkeypatch):
    clock = [0.0]

    def make(*frames):
        one = Link(clock, *frames)
        monkeypatch.setattr(neighbours, "_packets", lambda *_: one)
        return one

    monkeypatch.setattr(neighbours, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return make


def test_probing_asks_three_times_and_hears_only_strangers(link):
    stranger = bytes.fromhex("020000000099")
    ours, theirs = (neighbours.announcements(V4, mac)[1] for mac in (MAC, stranger))
    silent = link(ours)
    assert neighbours.probe(V4, "eth0", [], 0.6) == ""
    assert [at for at, _ in silent.sent] == [0.0, 0.2, 0.4]
    assert neighbours.probe(V4, "eth0", [], 0.6) == ""
    link(ours, b"", theirs)
    assert neighbours.probe(V4, "eth0", [], 0.6) == "02:00:00:00:00:99"
    link(theirs)
    assert neighbours.probe(V4, "eth0", ["02:00:00:00:00:99"], 0.6) == ""


def test_announcing_does_not_wait_for_the_socket_to_close(link):
    one = link()
    one.close = lambda: closing.wait(20)
    closing = threading.Event()
    neighbours.announce(V4, "eth0")
    assert [frame for _, frame in one.sent] == neighbours.announcements(V4, MAC)
    closing.set()


# Messages to the kernel


@pytest.fixture
def kernel(monkeypatch):
    said = []
    monkeypatch.setattr(netlink, "_talk", lambda kind, flags, body: said.append((kind, flags, body)) or [])
    monkeypatch.setattr(netlink.socket, "if_nametoindex", lambda name: 7)
    return said


PLACE = {"address": V4, "prefix_len": 24, "ifname": "eth0", "broadcast": "198.51.100.255", "label": "eth0:w"}


def test_an_address_is_added_with_all_that_it_had(kernel):
    netlink.add({**PLACE, "flags": 0x281, "preferred_s": 0})
    kind, flags, body = kernel[0]
    assert (kind, flags & 0x604) == (20, 0x604)
    assert body[:8] == struct.pack("=BBBBi", 2, 24, 0, 0, 7)
    words = netlink.attributes(body, 8)
    assert words[1] == words[2] == raw("c6336464") and words[4] == raw("c63364ff") and words[3] == b"eth0:w\0"
    assert words[8] == struct.pack("=I", 0x200)
    assert words[6][:8] == struct.pack("=II", 0, 0xFFFFFFFF)


def test_in_version_six_the_kernel_does_not_look_for_duplicates(kernel):
    netlink.add({"address": V6, "prefix_len": 64, "ifname": "eth0"})
    words = netlink.attributes(kernel[0][2], 8)
    assert words[8] == struct.pack("=I", 0x02) and words[1] == raw("20010db8000000000000000000000064")


@pytest.mark.parametrize(
    ("what", "number", "passes"),
    [
        (netlink.add, errno.EEXIST, True),
        (netlink.add, errno.EPERM, False),
        (netlink.delete, errno.EADDRNOTAVAIL, True),
        (netlink.delete, errno.ENODEV, True),
        (netlink.delete, errno.EPERM, False),
    ],
)
def test_adding_and_removing_can_be_repeated(what, number, passes, monkeypatch):
    def fail(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(netlink, "_change", fail)
    with nullcontext() if passes else pytest.raises(OSError):
        what(PLACE)


def test_loopback_is_found_by_asking_this_kernel():
    found = netlink.find("127.0.0.1")
    assert found and (found["ifname"], found["prefix_len"], found["valid_s"]) == ("lo", 8, netlink.FOREVER)
    assert netlink.links()["lo"]["kind"] == 772
    assert netlink.route_to("127.0.0.1")["local"]
    assert netlink.find("192.0.2.77") is None
