"""Memory ahead of the freeze: what is found again is named, what is not is sent, and a wrong copy never passes."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import struct
import threading
from pathlib import Path

import pytest

from reberth.node.tree.presend import PAGE_BYTES, Guess, Place, capture, places_of_images
from reberth.node.tree.receive import Earlier, recv_tree
from reberth.node.tree.send import send_tree
from reberth.node.tree.wire import TreeError

TASK = 7


def _pages(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count * PAGE_BYTES)


def _guess(path: Path, data: bytes, places: list[Place]) -> Guess:
    path.write_bytes(data)
    guess = Guess(str(path), places)
    guess.digest = hashlib.sha256(data).digest()
    return guess


def _cross(source: Path, target: Path, matchers, earlier: Path | None):
    """Send a flat directory; what the sender says and what the receiver says."""
    read_fd, write_fd = os.pipe()
    there = Earlier(os.open(earlier, os.O_RDONLY), hashlib.sha256(earlier.read_bytes()).digest()) if earlier else None
    answers: list[object] = []

    def receive() -> None:
        try:
            answers.append(recv_tree(str(target), read_fd, flat=True, earlier=there))
        except TreeError as error:
            answers.append(error)
        os.close(read_fd)

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        snapshot = send_tree(str(source), write_fd, flat=True, matchers=matchers)
    except TreeError:
        snapshot = None
    os.close(write_fd)
    thread.join()
    if there:
        os.close(there.fd)
    return snapshot, answers[0]


@pytest.fixture
def places(tmp_path):
    """A source and a target directory."""
    (tmp_path / "source").mkdir()
    return tmp_path / "source", tmp_path / "target", tmp_path / "earlier"


@pytest.mark.parametrize("seed", range(12))
def test_only_what_changed_goes_over(places, seed):
    """Pages move in the file, change, come and go, as between a capture and the dump."""
    source, target, earlier = places
    chance = random.Random(seed)
    memory = {page: _pages(page, 1) for page in range(400) if chance.random() < 0.8}
    before = sorted(memory)
    guess = _guess(
        earlier,
        b"".join(memory[page] for page in before),
        [Place(n * PAGE_BYTES, PAGE_BYTES, TASK, page * PAGE_BYTES) for n, page in enumerate(before)],
    )
    changed = {page for page in range(400) if chance.random() < 0.1}
    memory.update({page: _pages(1000 + page, 1) for page in changed})
    after = sorted(page for page in memory if chance.random() < 0.95)
    (source / "pages-1.img").write_bytes(b"".join(memory[page] for page in after))
    now = [Place(n * PAGE_BYTES, PAGE_BYTES, TASK, page * PAGE_BYTES) for n, page in enumerate(after)]
    snapshot, manifest = _cross(source, target, {"pages-1.img": guess.matcher(now)}, earlier)
    assert (target / "pages-1.img").read_bytes() == (source / "pages-1.img").read_bytes()
    needed = len(changed & set(after)) * PAGE_BYTES
    assert snapshot.bytes_sent == manifest.bytes_received == needed
    assert snapshot.sent == manifest.files


@pytest.mark.parametrize("pages", [1, 16, 17, 255, 256, 257, 700])
def test_runs_longer_than_a_chunk(places, pages):
    """One run, one page of it changed: that page alone goes over."""
    source, target, earlier = places
    data = bytearray(_pages(1, pages))
    guess = _guess(earlier, bytes(data), [Place(0, len(data), TASK, 0x1000)])
    data[-5] ^= 1
    (source / "pages-1.img").write_bytes(data)
    now = guess.matcher([Place(0, len(data), TASK, 0x1000)])
    snapshot, _ = _cross(source, target, {"pages-1.img": now}, earlier)
    assert (target / "pages-1.img").read_bytes() == data
    assert snapshot.bytes_sent == PAGE_BYTES


def test_other_addresses_and_tasks_are_no_hint(places):
    """The same bytes elsewhere are not looked for."""
    source, target, earlier = places
    data = _pages(1, 8)
    guess = _guess(earlier, data, [Place(0, len(data), TASK, 0x10000)])
    assert guess.matcher([Place(0, len(data), TASK + 1, 0x10000)]) is None
    assert guess.matcher([Place(0, len(data), TASK, 0x90000)]) is None
    (source / "pages-1.img").write_bytes(data)
    snapshot, _ = _cross(source, target, {}, earlier)
    assert snapshot.bytes_sent == len(data) and (target / "pages-1.img").read_bytes() == data


def test_another_file_there_is_found_out(places, tmp_path):
    """The receiver holds something else than the sender believes: nothing of it passes as memory."""
    source, target, earlier = places
    data = bytearray(_pages(1, 64))
    guess = _guess(earlier, bytes(data), [Place(0, len(data), TASK, 0)])
    (source / "pages-1.img").write_bytes(data)
    data[12345] ^= 1
    (tmp_path / "other").write_bytes(data)
    matchers = {"pages-1.img": guess.matcher([Place(0, len(data), TASK, 0)])}
    _, answer = _cross(source, target, matchers, tmp_path / "other")
    assert isinstance(answer, TreeError) and "damaged" in str(answer)
    assert not (target / "pages-1.img").exists()


@pytest.mark.parametrize("there", ["none", "short"])
def test_nothing_there_to_copy_from(places, tmp_path, there):
    """A copy without an earlier file, and one from behind its end."""
    source, target, earlier = places
    data = _pages(1, 4)
    guess = _guess(earlier, data, [Place(0, len(data), TASK, 0)])
    (source / "pages-1.img").write_bytes(data)
    (tmp_path / "short").write_bytes(data[:5000])
    matchers = {"pages-1.img": guess.matcher([Place(0, len(data), TASK, 0)])}
    _, answer = _cross(source, target, matchers, tmp_path / "short" if there == "short" else None)
    assert isinstance(answer, TreeError) and ("bad piece" if there == "none" else "not here") in str(answer)


def test_capture_of_a_live_process(tmp_path):
    """A child's memory is found under its address, byte by byte; what it never touched is left out."""
    area = mmap.mmap(-1, 64 * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    said, tell = os.pipe()
    child = os.fork()
    if not child:
        area[8 * PAGE_BYTES : 24 * PAGE_BYTES] = _pages(5, 16)
        os.write(tell, b"x")
        os.read(os.pipe()[0], 1)
        os._exit(0)
    try:
        os.read(said, 1)
        found = capture([child], str(tmp_path / "memory"))
        data = (tmp_path / "memory").read_bytes()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    if not found:
        pytest.skip("this kernel does not let us read a child's memory")
    assert sum(place.length for place in found) == len(data)
    assert {place.task for place in found} == {child}
    wanted = _pages(5, 16)  # the heap holds them too, but at no page's beginning
    at = [n for n in range(0, len(data), PAGE_BYTES) if data[n : n + len(wanted)] == wanted]
    assert len(at) == 1
    assert any(p.offset <= at[0] and at[0] + len(wanted) <= p.offset + p.length for p in found)


def test_a_task_that_is_gone_is_left_out(tmp_path):
    """Nothing is no error."""
    assert capture([2**22 - 1], str(tmp_path / "memory")) == []
    assert (tmp_path / "memory").read_bytes() == b""


def _message(**fields: int) -> bytes:
    body = b""
    for number, value in fields.items():
        rest = b""
        while value >= 0x80:
            rest, value = rest + bytes([value & 0x7F | 0x80]), value >> 7
        body += bytes([int(number[1:]) << 3]) + rest + bytes([value])
    return struct.pack("<I", len(body)) + body


def test_places_of_images(tmp_path):
    """Entries that are present follow each other in the pages file; those in a parent have nothing there."""
    entries = [
        _message(f1=3),
        _message(f1=0x400000, f2=2, f4=4),
        _message(f1=0x500000, f2=9, f4=1),
        _message(f1=0x7F0000001000, f2=0, f4=6, f5=300),
        _message(f1=0x7F0000900000, f2=5, f3=1),
    ]
    (tmp_path / "pagemap-12.img").write_bytes(b"\0" * 8 + b"".join(entries))
    (tmp_path / "pagemap-13.img").write_bytes(b"\0" * 8 + b"\xff\xff")
    (tmp_path / "pagemap-shmem-5.img").write_bytes(b"")
    assert places_of_images(str(tmp_path)) == {
        "pages-3.img": [
            Place(0, 2 * PAGE_BYTES, 12, 0x400000),
            Place(2 * PAGE_BYTES, 300 * PAGE_BYTES, 12, 0x7F0000001000),
        ]
    }
