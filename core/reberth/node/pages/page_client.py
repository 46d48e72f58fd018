"""The source's side of the transport `page-server`: a dump's pages go into the run's data connection as they are read.

CRIU is told of a page server. That is this helper: by one end of a socket pair, or, under runc, which cannot hand one
on, by a port for exactly one connection, that of the tool's own criu; in a network namespace with no other process
where the container has its own, else on the node's loopback, where every other connection is closed unheard.
Questions are answered here at once: in the frozen window a round trip for each task is saved. Whether the target's page
server says the same is compared there (page_server.py), and the controller waits for both.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from reberth.node.criu.tool import Job
from reberth.node.errors import OpError
from reberth.node.net.ipc import holds
from reberth.node.pages.postcopy_source import Place
from reberth.node.pages.wire import (
    PS_IOV_CLOSE,
    PS_IOV_FORCE_CLOSE,
    PS_IOV_OPEN2,
    PS_IOV_PARENT,
    Counts,
    Message,
    checked,
    header_of,
)
from reberth.node.system import procs
from reberth.node.system.rate_limit import Bucket
from reberth.node.tree.hash import HashLane
from reberth.node.tree.wire import Output, Reader, TreeError

FINISH_S = 10.0
WAYS = ("socket", "port", "loopback")


class Outflow:
    """The pages of one dump; `way` is how its criu reaches us, `before` the flow of the round before."""

    def __init__(
        self, pipe_fd: int, bucket: Bucket, header_bytes: int, way: str, before: Outflow | None = None
    ) -> None:
        if way not in WAYS:
            raise OpError("bad-argument", f"{way!r} is no way to a page server")
        self.header, self.bucket = header_of(header_bytes), bucket
        self.earlier: frozenset[int] = frozenset(before.counts.owners) if before else frozenset()
        self.place: Place | None = before.place if before else None
        if way == "port" and self.place is None:
            self.place = Place()
        self.pipe_fd = pipe_fd
        self.server: socket.socket | None = None
        self.theirs: socket.socket | None = None
        self.ours: socket.socket | None = None
        self.failed, self.moved = "", 0
        self._ended, self._done = threading.Event(), threading.Event()
        self._lane = HashLane()
        self.counts: Counts = Counts(self._lane)
        if way == "socket":
            self.ours, self.theirs = socket.socketpair()
        else:
            self.server = self._inside(lambda: socket.create_server(("127.0.0.1", 0), backlog=16))
            self.server.settimeout(0.2)

    def _inside(self, action: Callable[[], Any]) -> Any:
        return self.place.do(action) if self.place else action()

    def spawn(self, job: Job, argv: list[str], **how: Any) -> None:
        """Start the dump; `@pages@` in its words becomes what it reaches us by."""
        job.moved, job.let_go = lambda: self.moved, self.end
        if self.server is not None:
            word = "{}:{}".format(*self.server.getsockname())
        else:
            assert self.theirs is not None
            word = str(self.theirs.fileno())
        words = [one.replace("@pages@", word) for one in argv]
        fds = [self.theirs.fileno()] if self.theirs else []
        self._inside(lambda: job.spawn(words, pass_fds=fds, **how))
        if self.theirs is not None:
            self.theirs.close()
        threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def finish(self) -> dict[str, Any]:
        """Return what was sent, once the dump says that all of its memory was; OpError `pages` when it was not."""
        self._done.wait(FINISH_S)
        if self.failed or not self._done.is_set():
            raise OpError("pages", self.failed or "the dump did not say the end of its pages")
        return {**self.counts.facts(), "digest": self.counts.digest().hex()}

    def end(self) -> None:
        """No byte passes any more: a criu that waits for us fails."""
        self._ended.set()
        with contextlib.suppress(OSError):
            if self.ours is not None:
                self.ours.shutdown(socket.SHUT_RDWR)

    # The thread

    def _run(self, job: Job) -> None:
        try:
            with self._lane:
                if self.server is not None:
                    with self.server as server:  # nothing listens any more when the one has come
                        self.ours = self._accept(server, job)
                assert self.ours is not None
                self._flow(self.ours)
        except (OpError, TreeError, OSError) as error:
            self.failed = str(error) or type(error).__name__
        finally:
            self._done.set()
            for one in (self.ours, self.server):
                if one is not None:
                    one.close()

    def _accept(self, server: socket.socket, job: Job) -> socket.socket:
        """Return the connection of the tool's own criu; any other one is sent away unheard."""
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                found, peer = server.accept()
                if self._inside(functools.partial(is_of, peer, job.pid)):
                    found.setblocking(True)
                    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return found
                found.close()
        raise OpError("pages", "the flow of pages was ended")

    def _flow(self, sock: socket.socket) -> None:
        head = self._first(sock)
        reader, out = Reader(sock.fileno(), self._ended.is_set), Output(self.pipe_fd, self._ended.is_set)
        try:
            while True:
                message = checked(Message(*self.header.unpack(head)))
                self.counts.note(message)
                if message.command in (PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE):
                    out.write(self.counts.end())
                    sock.sendall(struct.pack("<i", 0))
                    return
                if message.command in (PS_IOV_OPEN2, PS_IOV_PARENT):
                    known = int(message.owner in self.earlier)
                    out.write(message._replace(pages=known).pack())
                    sock.sendall(struct.pack("<b" if message.command == PS_IOV_OPEN2 else "<i", known))
                else:
                    out.write(message.pack())
                    self.counts.carry(reader, out, message.body_bytes, self._moved)
                head = reader.exact(self.header.size)
        finally:
            out.close()

    def _first(self, sock: socket.socket) -> bytes:
        """Return the first message, which waits for its answer.

        So its length tells whether this is the CRIU that we think.
        """
        sock.settimeout(0.2)
        while not self._ended.is_set():
            try:
                found = sock.recv(2 * self.header.size, socket.MSG_PEEK)
            except TimeoutError:
                continue
            sock.settimeout(None)
            if not found:
                raise OpError("pages", "the dump hung up before its first page")
            if len(found) != self.header.size:
                raise OpError("pages", f"criu's first message has {len(found)} bytes, not {self.header.size}")
            return sock.recv(self.header.size)
        raise OpError("pages", "the flow of pages was ended")

    def _moved(self, count: int) -> None:
        self.moved += count
        self.bucket.spend(count)


def is_of(peer: tuple[str, int], pid: int, patience_s: float = 0.5) -> bool:
    """Tell whether the other end of a connection over the loopback belongs to this process or to one below it.

    By the kernel's table of the calling thread's network namespace: port to inode, inode to the owner's descriptors.
    """
    until_s = time.monotonic() + patience_s
    while True:
        inode = _inode_of(peer)
        if inode and any(holds(task.pid, {f"socket:[{inode}]"}) for task in procs.tree(pid)):
            return True
        if not inode or time.monotonic() > until_s:
            return False
        time.sleep(0.005)


def _inode_of(peer: tuple[str, int]) -> str:
    place = "{:08X}:{:04X}".format(int.from_bytes(socket.inet_aton(peer[0]), "little"), peer[1])
    with open("/proc/thread-self/net/tcp", encoding="ascii") as table:
        for line in table:
            words = line.split()
            if words[1] == place:
                return words[9] if int(words[7]) == os.getuid() and words[9] != "0" else ""
    return ""
