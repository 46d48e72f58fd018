"""What this machine passes on between two daemons: frames of a server become those of a client, and nothing is lost."""

from __future__ import annotations

import random
import socket
import threading

import pytest

from reberth_hooks import CommandError, Node

pytest.importorskip("pylxd", reason="pylxd is not installed")
from reberth_lxd.api.relay import Heads, Relay

SIZES = (0, 1, 125, 126, 65535, 65536, 200_000)


def frame(data, kind=2, mask=False):
    """A whole frame; `mask`: as a client sends it, with a mask of zeroes."""
    size, bit = len(data), 0x80 * mask
    if size < 126:
        head = bytes([0x80 | kind, bit | size])
    elif size < 1 << 16:
        head = bytes([0x80 | kind, bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | kind, bit | 127]) + size.to_bytes(8, "big")
    return head + bytes(4 * mask) + data


def test_only_the_heads_are_written_anew():
    chance = random.Random(7)
    bodies = [chance.randbytes(size) for size in SIZES for _ in range(3)]
    stream = b"".join(map(frame, bodies))
    for most in (1, 3, 4096, len(stream)):
        heads, at, found = Heads(), 0, b""
        rest = stream if most > 3 else stream[:20_000]
        while at < len(rest):
            size = chance.randint(1, most)
            found += heads.masked(rest[at : at + size])
            at += size
        wanted = b"".join(frame(body, mask=True) for body in bodies)
        assert found == wanted if most > 3 else wanted.startswith(found) and len(found) > 19_000


def test_a_daemon_that_masks_is_none():
    with pytest.raises(ValueError, match="masked"):
        Heads().masked(frame(b"data", mask=True))


class Side:
    """A daemon's streams behind a unix socket; `first` comes in one piece with the answer."""

    def __init__(self, path, first=b"", answer=b"HTTP/1.1 101 Switching Protocols"):
        self.first, self.answer, self.asked, self.met = first, answer, [], threading.Semaphore(0)
        self.streams = {}
        self.node = Node(path.name, connector="lxd", options={"lxd": {"url": f"unix://{path}"}})
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            stream, _ = self.listener.accept()
            head = b""
            while b"\r\n\r\n" not in head:
                head += stream.recv(4096)
            self.asked.append(head.split()[1].decode())
            self.streams[self.asked[-1].rpartition("=")[2]] = stream
            stream.sendall(self.answer + b"\r\n\r\n" + self.first)
            self.met.release()


@pytest.fixture
def sides(tmp_path):
    return Side(tmp_path / "a", frame(b"early")), Side(tmp_path / "b")


URLS = ("/1.0/operations/1", "/1.0/operations/2")
SECRETS = ({"control": "a1", "fs": "a2"}, {"control": "b1", "fs": "b2"})


def all_of(stream, size):
    found = b""
    while len(found) < size:
        more = stream.recv(65536)
        assert more, found[-20:]
        found += more
    return found


def test_both_streams_go_both_ways_to_the_end(sides):
    here, there = sides
    relay = Relay((here.node, there.node), URLS, SECRETS)
    for side in sides:
        side.met.acquire(timeout=10), side.met.acquire(timeout=10)
    assert here.asked == [f"{URLS[0]}/websocket?secret=a1", f"{URLS[0]}/websocket?secret=a2"]
    assert there.asked[0] == f"{URLS[1]}/websocket?secret=b1"
    much = b"".join(frame(bytes([n]) * 300_000) for n in range(30))  # more than any buffer on the way
    sender = threading.Thread(target=here.streams["a2"].sendall, args=(much,), daemon=True)
    sender.start()
    there.streams["b1"].sendall(frame(b"answer", 1))
    early = frame(b"early", mask=True)
    assert all_of(there.streams["b1"], len(early)) == early
    answer = frame(b"answer", 1, mask=True)
    assert all_of(here.streams["a1"], len(answer)) == answer
    wanted = early + b"".join(frame(bytes([n]) * 300_000, mask=True) for n in range(30))
    assert all_of(there.streams["b2"], len(wanted)) == wanted
    sender.join(10)
    here.streams["a2"].close()
    assert there.streams["b2"].recv(1) == b""
    there.streams["b1"].sendall(frame(b"still"))  # the other stream goes on
    still = frame(b"still", mask=True)
    assert all_of(here.streams["a1"], len(still)) == still
    relay.close()
    assert here.streams["a1"].recv(1) == b"" and there.streams["b1"].recv(1) == b""


def test_a_daemon_that_does_not_take_it(tmp_path):
    """The other one's stream is closed again."""
    here, there = Side(tmp_path / "a"), Side(tmp_path / "b", answer=b"HTTP/1.1 404 Not Found")
    with pytest.raises(CommandError, match="pass on"):
        Relay((here.node, there.node), URLS, SECRETS)
    here.met.acquire(timeout=10)
    with pytest.raises(CommandError, match="fs"):
        Relay((here.node, there.node), URLS, (SECRETS[0], {"control": "b1"}))
