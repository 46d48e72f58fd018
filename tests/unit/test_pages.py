"""The flow of pages: CRIU's messages counted in any pieces, two directions, ends that close, and pagemap images."""

from __future__ import annotations

import os
import socket
import struct
import threading

import pytest

from reberth.node.criu.pagemap import Extent, check_left, extents, lazy_pages
from reberth.node.errors import OpError
from reberth.node.pages.daemon_log import DaemonLog
from reberth.node.pages.relay import Channel, Flow

PAGE = b"x" * 4096


class Wire:
    """Two ends of a connection; what a test took of it is closed in the end, whoever has closed a part of it."""

    def __init__(self) -> None:
        (a_r, a_w), (b_r, b_w) = os.pipe(), os.pipe()
        self.here, self.there = Channel(a_r, b_w), Channel(b_r, a_w)
        self.flows: list[Flow] = []
        self.socks: list[socket.socket] = []
        self.raw: list[int] = []
        self.before = set(threading.enumerate())  # those of other tests may never end

    def flow(self, channel: Channel) -> tuple[Flow, socket.socket]:
        one = Flow(channel)
        self.flows.append(one)
        self.socks.append(one.theirs.dup())
        return one, self.socks[-1]

    def by_hand(self, channel: Channel) -> Channel:
        self.raw += [channel.read_fd, channel.write_fd]
        return channel

    def close(self) -> None:
        for sock in self.socks:
            sock.close()
        for fd in self.raw:
            os.close(fd)
        for flow in self.flows:
            flow.end()
        for thread in set(threading.enumerate()) - self.before:
            thread.join(5)


@pytest.fixture
def wire():
    one = Wire()
    yield one
    one.close()


def test_both_directions_and_the_end(wire):
    source, server = wire.flow(wire.here)
    asked = threading.Event()
    source.start(asked.set)
    os.write(wire.there.write_fd, b"GET")
    assert server.recv(10) == b"GET"
    assert asked.is_set()
    server.sendall(PAGE * 100)
    got = b""
    while len(got) < len(PAGE) * 100:
        got += os.read(wire.there.read_fd, 1 << 16)
    assert got == PAGE * 100
    os.close(wire.there.write_fd)  # the other node is through: the server reads end of file
    assert server.recv(10) == b""
    server.close()
    assert source.ended.wait(5)
    assert os.read(wire.there.read_fd, 10) == b""
    os.close(wire.there.read_fd)
    assert not source.failed


def test_nothing_reaches_the_server_before_it_was_let_go(wire):
    source, server = wire.flow(wire.here)
    there = wire.by_hand(wire.there)
    server.settimeout(0.2)
    allowed = threading.Event()
    source.start(allowed.wait)
    os.write(there.write_fd, b"GET")
    with pytest.raises(socket.timeout):
        server.recv(10)
    allowed.set()
    server.settimeout(5)
    assert server.recv(10) == b"GET"
    source.end()
    assert server.recv(10) == b""


def test_an_ended_flow_does_not_wait_for_a_full_pipe(wire):
    wire.by_hand(wire.there)
    source, server = wire.flow(wire.here)
    source.start()
    server.setblocking(False)
    server.send(bytes(1 << 20))
    source.end()
    assert source.ended.wait(5)


# Pagemap images


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(**fields: int) -> bytes:
    numbers = {"pages_id": 1, "vaddr": 1, "old": 2, "in_parent": 3, "flags": 4, "count": 5}
    data = b"".join(varint(numbers[name] << 3) + varint(value) for name, value in fields.items())
    return struct.pack("<I", len(data)) + data


def image(path, *entries: bytes) -> None:
    path.write_bytes(b"\0" * 8 + message(pages_id=1) + b"".join(entries))


def test_lazy_pages_of_each_process(tmp_path):
    image(
        tmp_path / "pagemap-30.img",
        message(vaddr=0x1000, old=2, flags=4),
        message(vaddr=0x7F0000000000, old=300, flags=2, count=300),
        message(vaddr=0x7F0000400000, old=5, flags=6),
        message(vaddr=0x7F0000800000, old=9, in_parent=1, flags=3),
    )
    image(tmp_path / "pagemap-31.img")
    (tmp_path / "pagemap-shmem-5.img").write_bytes(b"")
    assert lazy_pages(str(tmp_path)) == {30: 305}
    assert next(extents(str(tmp_path / "pagemap-30.img"))) == Extent(0x1000, 2, 4)


def test_a_dump_that_wrote_what_it_was_to_leave_behind_is_found(tmp_path):
    image(tmp_path / "pagemap-30.img", message(vaddr=0x1000, old=2, flags=4), message(vaddr=0x9000, old=7, flags=2))
    check_left(str(tmp_path))
    image(tmp_path / "pagemap-31.img", message(vaddr=0x9000, old=7, flags=6))
    with pytest.raises(OpError, match="wrote 7 pages"):
        check_left(str(tmp_path))


@pytest.mark.parametrize("cut", [1, 5])
def test_a_pagemap_that_is_cut_off(tmp_path, cut):
    path = tmp_path / "pagemap-30.img"
    image(path, message(vaddr=0x1000, old=2, flags=4))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(OpError, match="cannot be read"):
        lazy_pages(str(tmp_path))


# What the daemon's log tells of pages that will not come


def test_pages_that_were_given_back(tmp_path):
    said = DaemonLog(str(tmp_path / "lazy-pages.fifo"), str(tmp_path / "lazy-pages.log"))
    with open(tmp_path / "lazy-pages.fifo", "wb", buffering=0) as pipe:
        pipe.write(b"(00.34) uffd: 30-12: #PF at 0x7fd1d90c5000\n(00.35) uffd: 30-12: REMO")
        pipe.write(b"VE: 7fd1d9000000(3000)\n(00.36) uffd: 30-12: UNMAP: 7fd1d8000000(10000)\n")
    said.close()
    said.close()
    assert said.dropped_pages == 19
    assert not (tmp_path / "lazy-pages.fifo").exists()


def test_of_a_process_that_has_ended_every_page_may_be_missing(tmp_path):
    said = DaemonLog(str(tmp_path / "lazy-pages.fifo"), str(tmp_path / "lazy-pages.log"))
    with open(tmp_path / "lazy-pages.fifo", "wb", buffering=0) as pipe:
        pipe.write(b"(00.37) uffd: 31-13: EXIT\n")
    said.close()
    assert said.dropped_pages > 1 << 60


def test_a_log_without_end_is_kept_within_bounds(tmp_path):
    """Its begin, its errors and its end are kept; a daemon wrote three gigabytes of one line in a minute."""
    line = b"(00.34) uffd: 1688970597-8: excess message in queue: 22\n"
    said = DaemonLog(str(tmp_path / "lazy-pages.fifo"), str(tmp_path / "lazy-pages.log"))
    with open(tmp_path / "lazy-pages.fifo", "wb", buffering=0) as pipe:
        pipe.write(b"(00.01) the first\n")
        for _ in range(20):
            pipe.write(line * 10_000)
        pipe.write(b"(00.35) Error (criu/uffd.c:1): the reason\n")
        for _ in range(20):
            pipe.write(line * 10_000 + b"Error: without an end\n" * 10_000)
        pipe.write(b"(00.99) the last\n")
    said.close()
    kept = (tmp_path / "lazy-pages.log").read_bytes()
    assert len(kept) < 2 << 20
    assert kept.startswith(b"(00.01) the first\n") and kept.endswith(b"(00.99) the last\n")
    assert b"the reason" in kept
