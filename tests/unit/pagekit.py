"""A dump and a page server that speak as CRIU's do, and a source and a target between them; for test_page_flow.py."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from types import SimpleNamespace

from reberth.node.errors import OpError
from reberth.node.pages.page_client import Outflow
from reberth.node.pages.page_server import Inflow
from reberth.node.pages.relay import HEADERS
from reberth.node.system import spawn as tools
from reberth.node.system.rate_limit import Bucket
from reberth.testing.tool import first_line

OPEN2, PARENT, ADD, HOLE, GET, CLOSE, FORCE_CLOSE = 4, 5, 4 << 16 | 6, 1 << 16 | 6, 7, 0x1023, 0x1024
TASK = 7 << 8 | 1
BASE = 0x7F0000000000
# A page server as CRIU's is: it believes everything, and the end of a file is a good end to it.
CRIU = """{first_line}
import os, socket, struct, sys
head, fault = struct.Struct({form!r}), {fault!r}
words = sys.argv
at = lambda name: words[words.index(name) + 1] if name in words else ""
sock, into, parent = socket.socket(fileno=int(at("--ps-socket"))), at("--images-dir"), at("--prev-images-dir")
log = open(os.path.join(at("--work-dir"), "page-server.log"), "w")
def exactly(size):
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data
pages = open(os.path.join(into, "pages-65537.img"), "wb")
while True:
    word, count, address, owner = head.unpack(exactly(head.size))
    command = word & 0xFFFF
    if command in (4, 5):
        name = f"pagemap-{{owner >> 8}}.img"
        if owner & 0xFF not in (1, 2):
            sys.exit(1)
        known = bool(parent) and os.path.exists(os.path.join(into, parent, name))
        if command == 4:
            open(os.path.join(into, name), "w").close()
        sock.sendall(struct.pack("<b" if command == 4 else "<i", known))
    elif command == 6 and word >> 16 & 4:
        data = exactly(4096 * count)
        if fault == "full":
            log.write("Error (criu/page-xfer.c:1): Unable to spice data: No space left on device\\n")
            log.close()
            sys.exit(1)
        pages.write(data if fault != "loses" else data[4096:])
        pages.flush()
    elif command in (0x1023, 0x1024):
        sock.sendall(struct.pack("<i", 0))
        sys.exit(fault == "late")
"""


class Dump:
    """CRIU's side of a dump: what it says by its socket."""

    def __init__(self, sock: socket.socket, header_bytes: int = 32) -> None:
        self.sock, self.head = sock, HEADERS[header_bytes]
        sock.settimeout(10)

    def say(self, word: int, pages: int = 0, address: int = 0, owner: int = TASK) -> None:
        self.sock.sendall(self.head.pack(word, pages, address, owner))

    def ask(self, word: int, form: str = "<b", owner: int = TASK) -> int:
        self.say(word, owner=owner)
        return int(struct.unpack(form, self.sock.recv(struct.calcsize(form)))[0])

    def whole(self, pages: int = 3) -> bytes:
        """A dump of one task, with a hole if the round before has it; returns its pages."""
        known = self.ask(PARENT, "<i")
        assert self.ask(OPEN2) == known
        data = os.urandom(4096 * pages)
        self.say(ADD, pages, BASE)
        self.sock.sendall(data)
        if known:
            self.say(HOLE, 2, BASE + (1 << 20))
        assert self.ask(FORCE_CLOSE, "<i", 0) == 0
        return data


class Stage:
    """A source and a target joined by a pipe."""

    def __init__(self, place, monkeypatch) -> None:
        self.place, self.monkeypatch = place, monkeypatch
        self.others = set(threading.enumerate())  # of other tests, which may stay
        self.read_fd, self.write_fd = os.pipe()
        self.ends: list[Inflow | Outflow] = []
        self.fds = [self.read_fd, self.write_fd]
        self.socks: list[socket.socket] = []

    def criu(self, header_bytes: int = 32, fault: str = "") -> None:
        folder = self.place / "bin"
        folder.mkdir(exist_ok=True)
        text = CRIU.format(first_line=first_line(sys.executable, "-IS"), form=HEADERS[header_bytes].format, fault=fault)
        (folder / "criu").write_text(text)
        (folder / "criu").chmod(0o755)
        self.monkeypatch.setattr(tools, "PATH", str(folder))

    def source(self, header_bytes: int = 32, before: Outflow | None = None) -> tuple[Outflow, Dump]:
        one = Outflow(self.write_fd, Bucket(), header_bytes, "socket", before)
        self.ends.append(one)
        given: list[socket.socket] = []

        def spawn(words, pass_fds=(), **how):
            assert words == ["criu", "--ps-socket", str(pass_fds[0])]
            given.append(socket.socket(fileno=os.dup(pass_fds[0])))

        job = SimpleNamespace(spawn=spawn, pid=os.getpid())
        one.spawn(job, ["criu", "--ps-socket", "@pages@"])
        self.socks += given
        return one, Dump(given[0], header_bytes)

    def target(self, name: str = "round-0", header_bytes: int = 32, parent: str = "") -> Inflow:
        into = self.place / name
        into.mkdir()
        one = Inflow(str(into), header_bytes, "r1")
        one.start(parent)
        self.ends.append(one)
        return one

    def take(self, one: Inflow):
        """The target's part, beside the test; `result()` of the answer is what it came to."""
        found: list[object] = []

        def run():
            try:
                found.append(one.take(self.read_fd, lambda count: None, lambda: False))
            except OpError as error:
                found.append(error)

        thread = threading.Thread(target=run)
        thread.start()

        def result():
            thread.join(20)
            assert not thread.is_alive(), "it waits for ever"
            return found[0]

        return result

    def cut(self) -> None:
        os.close(self.write_fd)
        self.fds.remove(self.write_fd)

    def close(self) -> None:
        for end in self.ends:
            end.end()
        for sock in self.socks:
            sock.close()
        for thread in set(threading.enumerate()) - self.others:
            thread.join(5)
        for fd in self.fds:
            os.close(fd)
