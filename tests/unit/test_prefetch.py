"""Pages ahead of the daemon: in its order, each once, whatever the source answers; a false answer is refused."""

from __future__ import annotations

import contextlib
import os
import struct
import threading

import pytest

from reberth.node.criu.parents import Layers, Local, Rows, Run
from reberth.node.pages import prefetch
from reberth.node.pages.prefetch import Prefetch
from reberth.node.pages.relay import HEADERS, Channel
from reberth.node.pages.tracker import HERE, Area, Ledger, Place

BASE, OTHER = 0x7F0000000000, 0x7F0000800000
GET, ADD, FORCE_CLOSE = 7, 0x40006, 0x1024
HEAD = HEADERS[32]
ANON = 6  # present, and able to be lazy


def page(owner: int, address: int) -> bytes:
    return struct.pack("<QQ", owner, address) * 256


class Source(threading.Thread):
    """A page server as CRIU's: answers in order, at most `most` pages at once; `asked` is what it was asked for."""

    def __init__(self, channel: Channel, most: int = 1 << 20) -> None:
        super().__init__(daemon=True)
        self.channel, self.most = channel, most
        self.asked: list[tuple[int, int, int]] = []
        self.closed = False

    def run(self) -> None:
        rest = b""
        while True:
            data = os.read(self.channel.read_fd, 1 << 16)
            if not data:
                break
            rest += data
            while len(rest) >= HEAD.size:
                command, pages, address, owner = HEAD.unpack(rest[: HEAD.size])
                rest = rest[HEAD.size :]
                if command == FORCE_CLOSE:
                    self.closed = True
                    self.send(bytes(4))
                    continue
                self.asked.append((owner, address, pages))
                pages = min(pages, self.most)
                body = b"".join(page(owner, address + i * 4096) for i in range(pages))
                self.send(HEAD.pack(ADD, pages, address, owner) + body)
        os.close(self.channel.read_fd)
        os.close(self.channel.write_fd)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # the test is over
            while data:
                data = data[os.write(self.channel.write_fd, data) :]


class Daemon:
    """CRIU's end: asks, and takes what comes in the order of its requests."""

    def __init__(self, flow: Prefetch) -> None:
        self.sock = flow.theirs.dup()
        self.sock.settimeout(10)

    def ask(self, owner: int, address: int, pages: int) -> None:
        self.sock.sendall(HEAD.pack(GET, pages, address, owner))

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            assert piece, "the flow has ended"
            data += piece
        return data

    def take(self) -> tuple[int, int, int]:
        command, pages, address, owner = HEAD.unpack(self.exactly(HEAD.size))
        assert command == ADD
        for i in range(pages):
            assert self.exactly(4096) == page(owner, address + i * 4096)
        return owner, address, pages


@pytest.fixture
def scene():
    made = []

    def make(*areas: tuple[int, ...], most: int = 1 << 20, local=None) -> tuple[Prefetch, Daemon, Source]:
        (a_r, a_w), (b_r, b_w) = os.pipe(), os.pipe()
        flow = Prefetch(Channel(a_r, b_w), 32, local)
        flow.ledger = Ledger([Area(*area) for area in areas])
        daemon, source = Daemon(flow), Source(Channel(b_r, a_w), most)
        source.start()
        made.append((flow, daemon, source))
        flow.start()
        return made[-1]

    yield make
    for flow, daemon, source in made:
        daemon.sock.close()
        flow.end()
        assert flow.ended.wait(5)
        source.join(5)


def test_nothing_is_fetched_before_the_daemon_asks(scene):
    _, daemon, source = scene((30, BASE, 1000))
    assert not source.asked
    daemon.ask(30, BASE + 4096 * 500, 1)
    assert daemon.take() == (30, BASE + 4096 * 500, 1)
    assert source.asked[0] == (30, BASE + 4096 * 500, prefetch.NEAR_PAGES)


@pytest.mark.parametrize("most", [1, 5, 1 << 20])
def test_every_page_comes_once(scene, most):
    """The daemon asks for all in steps of 32, as CRIU does; the source may answer less than it was asked for."""
    flow, daemon, source = scene((30, BASE, 300), (31, OTHER, 77), most=most)
    for owner, start, pages in ((30, BASE, 300), (31, OTHER, 77)):
        at = 0
        while at < pages:
            daemon.ask(owner, start + at * 4096, min(32, pages - at))
            got = daemon.take()
            assert got[:2] == (owner, start + at * 4096)
            at += got[2]
    assert flow.pages == 377
    daemon.sock.sendall(HEAD.pack(FORCE_CLOSE, 0, 0, 0))
    assert daemon.exactly(4) == bytes(4)
    assert source.closed
    first = [ask for number, ask in enumerate(source.asked) if ask not in source.asked[:number]]
    assert len(first) == len(source.asked), "a page was asked for twice"


def layers(*runs: Run) -> Layers:
    rows = Rows()
    for run in runs:
        rows.add(run)
    return Layers([rows])


class Held(Local):
    """Pages that lie here: a run from its second page on, in a file that begins with another page."""

    def __init__(self, folder, start: int, pages: int) -> None:
        super().__init__()
        path = folder / "pages-1.img"
        path.write_bytes(bytes(4096) + b"".join(page(30, start + i * 4096) for i in range(pages)))
        fd = os.open(path, os.O_RDONLY)
        self.add(30, layers(Run(start, pages, ANON, fd, 4096)))
        self.files.append(fd)


def test_pages_of_earlier_rounds_come_from_here(scene, tmp_path):
    """Between pages of the source, in the order of the requests; the source is never asked for them."""
    start = BASE + 100 * 4096
    flow, daemon, source = scene((30, BASE, 100), (30, start, 50, HERE), local=Held(tmp_path, start, 50))
    daemon.ask(30, start + 4096, 1)
    daemon.ask(30, BASE, 1)
    daemon.ask(30, start, 100)
    assert daemon.take() == (30, start + 4096, 1)
    assert daemon.take()[:2] == (30, BASE)
    assert daemon.take() == (30, start, 50)
    assert flow.pages >= 51
    assert all(address < start for _, address, _ in source.asked)


def test_one_request_is_answered_from_images_and_source_alike(scene, tmp_path):
    """What came meanwhile goes with what lies beside it, up to the first page that is missing."""
    start = BASE + 40 * 4096
    flow, daemon, source = scene((30, BASE, 100), local=Held(tmp_path, start, 20))
    flow.ledger.mark(Place(30, start), 20, HERE)
    at = BASE
    while at < BASE + 100 * 4096:
        daemon.ask(30, at, (BASE - at) // 4096 + 100)
        owner, address, pages = daemon.take()
        assert (owner, address) == (30, at) and pages
        at += pages * 4096
    assert flow.pages == 100
    asked = [address + i * 4096 for _, address, pages in source.asked for i in range(pages)]
    assert sorted(asked) == [BASE + i * 4096 for i in range(100) if not 40 <= i < 60]


def test_what_was_written_here_and_there_is_one_answer(tmp_path):
    """A workload that writes scattered pages leaves a run for each of them in the images; a request takes many."""
    files = []
    for number in (1, 2):
        path = tmp_path / f"pages-{number}.img"
        path.write_bytes(b"".join(page(30, BASE + i * 4096) for i in range(64)))
        files.append(os.open(path, os.O_RDONLY))
    local = Local()
    local.files += files
    local.add(30, layers(*(Run(BASE + i * 4096, 1, ANON, files[i % 2], i * 4096) for i in range(64))))
    flow = Prefetch(None, 32, local)
    flow.ledger = Ledger([Area(30, BASE, 64, HERE)])
    daemon = Daemon(flow)
    flow.start()
    daemon.ask(30, BASE, 64)
    assert daemon.take() == (30, BASE, 64)
    daemon.sock.close()
    assert flow.ended.wait(5)


def test_without_a_source_all_pages_lie_here(tmp_path):
    flow = Prefetch(None, 32, Held(tmp_path, BASE, 20))
    flow.ledger = Ledger([Area(30, BASE, 20, HERE)])
    daemon = Daemon(flow)
    flow.start()
    daemon.ask(30, BASE + 4096, 500)
    assert daemon.take() == (30, BASE + 4096, 19)
    daemon.ask(30, BASE, 1)
    assert daemon.take() == (30, BASE, 1)
    assert flow.pages == 20
    daemon.sock.sendall(HEAD.pack(FORCE_CLOSE, 0, 0, 0))
    assert daemon.exactly(4) == bytes(4)
    daemon.sock.close()
    assert flow.ended.wait(5)
    assert not flow.failed and flow.local.find(30, BASE) is None


def test_a_short_image_ends_the_flow(tmp_path):
    local = Held(tmp_path, BASE, 20)
    os.truncate(tmp_path / "pages-1.img", 4096 * 10)
    flow = Prefetch(None, 32, local)
    flow.ledger = Ledger([Area(30, BASE, 20, HERE)])
    daemon = Daemon(flow)
    flow.start()
    daemon.ask(30, BASE, 20)
    assert flow.ended.wait(5)
    daemon.sock.close()
    assert "shorter" in flow.failed


def test_the_flow_goes_before_the_daemon_that_waits_for_it(scene, monkeypatch):
    """CRIU's daemon polls without rest: on one processor it would keep from us what it waits for."""
    asked = []
    monkeypatch.setattr(prefetch.os, "setpriority", lambda *words: asked.append((*words, threading.get_native_id())))
    _, daemon, _ = scene((30, BASE, 1))
    daemon.ask(30, BASE, 1)
    daemon.take()
    ((which, thread, priority, caller),) = asked
    assert (which, priority) == (os.PRIO_PROCESS, prefetch.PRIORITY) and prefetch.PRIORITY < 0
    assert thread == caller != threading.get_native_id()


def test_answers_come_in_the_order_of_the_requests(scene):
    flow, daemon, _ = scene((30, BASE, 2000), (31, OTHER, 2000))
    places = [(30, BASE + 4096 * i) for i in (1999, 3, 700)] + [(31, OTHER + 4096 * 5)]
    for owner, address in places:
        daemon.ask(owner, address, 1)
    assert [daemon.take()[:2] for _ in places] == places
    assert flow.pages == 4


def test_a_page_that_is_asked_for_again_counts_once(scene):
    flow, daemon, _ = scene((30, BASE, 4))
    for _ in range(3):
        daemon.ask(30, BASE, 1)
        assert daemon.take() == (30, BASE, 1)
    assert flow.pages == 1


@pytest.mark.parametrize(
    "answer",
    [
        HEAD.pack(ADD, 1, BASE + 4096, 30),  # another page
        HEAD.pack(ADD, 99999, BASE, 30),  # more than was asked for
        HEAD.pack(GET, 1, BASE, 30),
        b"GET / HTTP/1.1\r\n" * 3,
    ],
)
def test_what_criu_would_not_send_is_refused(answer):
    (a_r, a_w), (b_r, b_w) = os.pipe(), os.pipe()
    flow = Prefetch(Channel(a_r, b_w), 32)
    flow.ledger = Ledger([Area(30, BASE, 4)])
    daemon = Daemon(flow)
    flow.start()
    daemon.ask(30, BASE, 1)
    os.read(b_r, 100)
    os.write(a_w, answer)
    assert flow.ended.wait(5)
    assert "no page of CRIU's" in flow.failed
    assert daemon.sock.recv(10) == b""
    assert flow.pages == 0
    daemon.sock.close()
    os.close(a_w)
    os.close(b_r)


def test_a_source_that_goes_away_ends_the_flow():
    (a_r, a_w), (b_r, b_w) = os.pipe(), os.pipe()
    flow = Prefetch(Channel(a_r, b_w), 32)
    flow.ledger = Ledger([Area(30, BASE, 4)])
    daemon = Daemon(flow)
    flow.start()
    os.close(a_w)
    assert flow.ended.wait(5)
    assert daemon.sock.recv(10) == b""
    daemon.sock.close()
    os.close(b_r)


def test_the_ledger_finds_its_places():
    ledger = Ledger([Area(31, OTHER, 2), Area(30, BASE, 3)])
    assert ledger.find(Place(30, BASE + 4096 * 3)) is None
    assert ledger.find(Place(31, BASE)) is None
    assert ledger.state(Place(29, 0)) == prefetch.SERVED
    ledger.mark(Place(30, BASE + 4096), 5, prefetch.ASKED)
    assert ledger.next_run(9) == (Place(30, BASE), 1)
    ledger.mark(Place(30, BASE), 1, prefetch.ASKED)
    assert ledger.next_run(9) == (Place(31, OTHER), 2)
    ledger.mark(Place(31, OTHER), 2, prefetch.SERVED)
    assert ledger.next_run(9) is None
    ledger.mark(Place(31, OTHER), 2, prefetch.UNASKED)
    assert ledger.served == 2
    assert ledger.state(Place(31, OTHER)) == prefetch.SERVED
