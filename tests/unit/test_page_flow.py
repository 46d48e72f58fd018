"""Pages from a dump to a page server: whole and proven, or an error; each CRIU is spoken to in its own form."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from pagekit import ADD, BASE, CLOSE, FORCE_CLOSE, GET, OPEN2, TASK, Stage

from reberth.node.errors import OpError
from reberth.node.pages import page_client, page_server
from reberth.node.pages.page_client import Outflow
from reberth.node.pages.relay import HEADERS
from reberth.node.pages.wire import MESSAGE_BYTES, Counts, Message, checked, unpack
from reberth.node.system.rate_limit import Bucket
from reberth.node.tree.hash import HashLane


@pytest.fixture
def stage(tmp_path, monkeypatch):
    one = Stage(tmp_path, monkeypatch)
    one.criu()
    yield one
    one.close()


@pytest.mark.parametrize(("theirs", "ours"), [(32, 32), (24, 24), (24, 32), (32, 24)])
def test_a_dump_arrives_whole_whatever_each_criu_speaks(stage, theirs, ours):
    stage.criu(ours)
    source, dump = stage.source(theirs)
    result = stage.take(stage.target(header_bytes=ours))
    data = dump.whole()
    sent, found = source.finish(), result()
    assert found == sent
    assert (found["pages"], found["holes"], found["bytes"]) == (3, 0, 3 * 4096)
    assert (stage.place / "round-0/pages-65537.img").read_bytes() == data


def test_a_later_round_knows_what_the_one_before_has(stage):
    first, dump = stage.source()
    result = stage.take(stage.target())
    dump.whole()
    first.finish()
    assert result()["holes"] == 0
    second, dump = stage.source(before=first)
    result = stage.take(stage.target("round-1", parent="../round-0"))
    dump.whole()
    assert second.finish() == result()
    assert second.counts.holes == 2


def test_source_and_target_that_differ_about_the_round_before_are_an_error(stage):
    first, dump = stage.source()
    result = stage.take(stage.target())
    dump.whole()
    first.finish()
    result()
    stage.source(before=first)[1].ask(OPEN2)
    assert "differ" in stage.take(stage.target("round-1"))().message


@pytest.mark.parametrize("when", ["before", "inside", "after"])
def test_a_dump_that_hangs_up_is_no_good_end(stage, when):
    """CRIU's own page server would have said so: it ends with 0 at the end of a file."""
    source, dump = stage.source()
    target = stage.target()
    result = stage.take(target)
    if when != "before":
        dump.ask(OPEN2)
        dump.say(ADD, 2, BASE)
        dump.sock.sendall(b"x" * 4096 * (1 if when == "inside" else 2))
    dump.sock.close()
    with pytest.raises(OpError, match=r"hung up|ended early"):
        source.finish()
    stage.cut()
    assert isinstance(result(), OpError)
    assert target.found is None and target.process.poll() is not None


def test_a_criu_of_another_form_is_found_out_at_its_first_message(stage):
    source, _ = stage.source(32)
    stage.socks[-1].sendall(HEADERS[24].pack(OPEN2, 0, 0, TASK))
    with pytest.raises(OpError, match="24 bytes, not 32"):
        source.finish()


@pytest.mark.parametrize(("theirs", "ours"), [(24, 32), (32, 24)])
def test_a_page_server_of_another_form_than_we_think_writes_no_page(stage, monkeypatch, theirs, ours):
    monkeypatch.setattr(page_server, "ANSWER_S", 0.5)
    stage.criu(theirs)
    _, dump = stage.source()
    result = stage.take(stage.target(header_bytes=ours))
    dump.ask(OPEN2)
    assert isinstance(result(), OpError)
    assert not (stage.place / "round-0/pages-65537.img").read_bytes()


@pytest.mark.parametrize(
    "message",
    [
        Message(GET, 1, BASE, TASK),
        Message(99, 0, 0, TASK),
        Message(ADD, 1, BASE + 1, TASK),
        Message(ADD, 0, BASE, TASK),
        Message(ADD, 1 << 40, BASE, TASK),
        Message(OPEN2, 0, 0, 7 << 8 | 9),
    ],
)
def test_what_no_dump_says_is_refused_on_both_sides(stage, message):
    with pytest.raises(OpError, match="not a message"):
        checked(message)
    source, dump = stage.source()
    dump.say(*message)
    with pytest.raises(OpError, match="not a message"):
        source.finish()
    os.write(stage.write_fd, message.pack())
    assert "not a message" in stage.take(stage.target())().message


def test_every_flipped_bit_is_an_error(stage):
    """Between the two helpers: in each message, in a page, in the end."""
    source, dump = stage.source()
    dump.whole(1)
    source.finish()
    stream = os.read(stage.read_fd, 1 << 20)
    places = [*range(0, 4 * MESSAGE_BYTES, 7), len(stream) // 2, len(stream) - 70, len(stream) - 1]
    for number, at in enumerate(places):
        broken = bytearray(stream)
        broken[at] ^= 0x10
        os.write(stage.write_fd, broken)
        assert isinstance(stage.take(stage.target(f"flip-{number}"))(), OpError), at
        os.set_blocking(stage.read_fd, False)
        while len(os.read(stage.read_fd, 1 << 20) if _waits(stage.read_fd) else b""):
            pass


def _waits(fd: int) -> bool:
    import select

    return bool(select.select([fd], [], [], 0)[0])


@pytest.mark.parametrize(
    ("fault", "words"), [("full", "No space left"), ("loses", "were written"), ("late", "ended with 1")]
)
def test_a_page_server_that_fails_or_loses_pages_is_an_error(stage, fault, words):
    stage.criu(fault=fault)
    _, dump = stage.source()
    result = stage.take(stage.target())
    dump.ask(OPEN2)
    dump.say(ADD, 2, BASE)
    dump.sock.sendall(b"x" * 8192)
    if fault == "full":
        stage.ends[-1].process.wait(20)
        dump.say(ADD, 1, BASE)
        dump.sock.sendall(b"y" * 4096)
    else:
        assert dump.ask(CLOSE, "<i", 0) == 0
    error = result()
    assert words in f"{error.message} {error.tail}"


def test_what_was_counted_otherwise_is_an_error(stage):
    with HashLane() as lane:
        counts, other = Counts(lane), Counts(lane)
        other.note(Message(ADD, 1, BASE, TASK))
        end = other.end()
        with pytest.raises(OpError, match="0 pages and 0 holes came, 1 and 0 were sent"):
            counts.check(unpack(end[:MESSAGE_BYTES]), end[MESSAGE_BYTES:])


def test_an_end_from_outside_frees_a_dump_that_waits(stage):
    """The link is cut: the pipe is full, criu waits for us; the helper ends the flow and criu fails."""
    source, dump = stage.source()
    dump.ask(OPEN2)
    dump.say(ADD, 4096, BASE)
    stuck = threading.Event()

    def push():
        try:
            while True:
                dump.sock.sendall(b"x" * 65536)
        except OSError:
            stuck.set()

    dump.sock.settimeout(None)
    thread = threading.Thread(target=push)
    thread.start()
    source.end()
    assert stuck.wait(10)
    thread.join(5)
    with pytest.raises(OpError):
        source.finish()


PEER = "import socket, sys, time; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print(s.recv(8)); "


def test_only_the_tools_own_process_gets_through_the_port(stage):
    """Root's other programs and other users are sent away unheard; then the port is closed."""
    one = Outflow(stage.write_fd, Bucket(), 32, "loopback")
    stage.ends.append(one)
    started: list[subprocess.Popen[str]] = []
    gate_r, gate_w = os.pipe()
    program = (
        "import os, socket, struct, sys\n"
        "os.read(int(sys.argv[2]), 1)\n"
        "s = socket.create_connection(('127.0.0.1', int(sys.argv[1].split(':')[1])))\n"
        f"s.sendall(struct.pack('<I4xQQQ', {OPEN2}, 0, 0, {TASK}))\n"
        "print(len(s.recv(1)), flush=True)\n"
        f"s.sendall(struct.pack('<I4xQQQ', {FORCE_CLOSE}, 0, 0, 0))\n"
        "print(len(s.recv(4)), flush=True)\n"
    )

    def spawn(words, pass_fds=(), **how):
        assert not pass_fds
        argv = [sys.executable, "-I", "-c", program, words[1], str(gate_r)]
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, pass_fds=[gate_r]))
        job.pid = started[0].pid

    job = SimpleNamespace(spawn=spawn, pid=0)
    one.spawn(job, ["--page-server", "@pages@"])
    port = one.server.getsockname()[1]
    for uid in (0, 65534):
        words = f"import os; os.setuid({uid}); " if os.getuid() == 0 else ""
        peer = [sys.executable, "-I", "-c", words + PEER, str(port)]
        assert subprocess.run(peer, capture_output=True, text=True, timeout=20).stdout.strip() in ("b''", "")
    assert not one.counts.owners
    os.write(gate_w, b"x")
    with started[0] as process:
        assert process.stdout.read().split() == ["1", "4"]
    assert one.finish()["pages"] == 0
    assert one.counts.owners == {TASK}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
    os.close(gate_r)
    os.close(gate_w)


def test_a_peer_is_known_by_the_process_that_holds_its_socket():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as mine:
        assert page_client.is_of(mine.getsockname(), os.getpid())
        begun = time.monotonic()
        assert not page_client.is_of(mine.getsockname(), 1 << 22, patience_s=0.05)
        assert time.monotonic() - begun < 10


def test_no_way_but_these():
    with pytest.raises(OpError, match="no way"):
        Outflow(1, Bucket(), 32, "0.0.0.0")
    with pytest.raises(OpError, match="28 bytes"):
        Outflow(1, Bucket(), 28, "socket")
