"""The flow of pages after the copy runs: CRIU's own messages, carried between a socket and a connection of the run.

CRIU's two ends (the dump that kept the pages, the lazy-pages daemon) each get one end of a socket pair, never an
address: its protocol knows no user, and any client can read memory and end the migration (docs/protocol.md).
Here the bytes pass between that pair and the connection, on the source; `prefetch` does it on the target.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from reberth.node.errors import OpError
from reberth.node.system.rate_limit import Bucket

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
BUFFER_BYTES = 1 << 20
PS_IOV_ADD_F = 6
COMMAND_MASK = 0xFFFF
# struct page_server_iov of criu/page-xfer.c: until 4.1 two 32-bit numbers first, since 4.2 one and 64-bit numbers.
HEADERS = {24: struct.Struct("<IIQQ"), 32: struct.Struct("<I4xQQQ")}


class Channel(NamedTuple):
    """A connection of the run: two descriptors, and what ends it for the other node.

    A closed descriptor alone does not: sshd holds the end of a command's output back while its stderr is open.
    """

    read_fd: int
    write_fd: int
    hang_up: Callable[[], None] = lambda: None


def no_channel() -> Channel:
    """In place of one, where none was opened; raises OpError `protocol`."""
    raise OpError("protocol", "no connection for pages was opened")


def no_pipe() -> tuple[int, int]:
    """In place of the data connection, where none was opened; raises OpError `protocol`."""
    raise OpError("protocol", "no data connection was opened")


class Flow:
    """Both directions between a channel and a socket of CRIU's, a thread each, until one of the four ends closes."""

    def __init__(self, channel: Channel, bucket: Bucket | None = None) -> None:
        self.channel, self.bucket = channel, bucket or Bucket()
        self.ours, self.theirs = socket.socketpair()
        self._wake_r, self._wake_w = os.pipe()
        self.ended = threading.Event()
        self.moved_s = time.monotonic()
        self.bytes = 0
        self.failed = ""
        self._directions, self._lock = 2, threading.Lock()

    def start(self, first: Callable[[], None] | None = None) -> None:
        """Begin; nothing passes to CRIU's socket before `first` has returned, called at the other node's first byte."""
        self.theirs.close()
        if first is None:
            self._begin(self._from_criu)
        self._begin(self._to_criu, first)

    def use(self, other: socket.socket) -> None:
        """Take another socket for ours (in `first` only): where CRIU could not be given one end of a pair."""
        self.ours.close()
        self.ours = other

    def end(self) -> None:
        """No byte passes any more: CRIU reads end of file, and so does the other node."""
        self.ended.set()
        with self._lock, contextlib.suppress(OSError):
            if self._directions:
                os.write(self._wake_w, b"x")
        for one in (self.ours, self.theirs):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _begin(self, direction: Callable[..., None], *words: object) -> None:
        def run() -> None:
            try:
                direction(*words)
            except (OSError, OpError) as error:
                self.failed = self.failed or str(error)
                self.end()
            self._one_less()

        threading.Thread(target=run, daemon=True).start()

    def _one_less(self) -> None:
        """The descriptors go with the second direction."""
        with self._lock:
            self._directions -= 1
            if self._directions == 0:
                self.ours.close()
                self._wake_w, wake_w = -1, self._wake_w
                os.close(self._wake_r)
                os.close(wake_w)

    def _to_criu(self, first: Callable[[], None] | None) -> None:
        try:
            piece = self._read(self.channel.read_fd)
            if first is not None:
                if piece:
                    first()
                self._begin(self._from_criu)
            while piece:
                self._write(self.ours.fileno(), piece)
                piece = self._read(self.channel.read_fd)
        finally:
            os.close(self.channel.read_fd)
            self.channel.hang_up()
        with contextlib.suppress(OSError):
            self.ours.shutdown(socket.SHUT_WR)

    def _from_criu(self) -> None:
        try:
            piece = self._read(self.ours.fileno())
            while piece:
                self._write(self.channel.write_fd, piece)
                self.bucket.spend(len(piece))
                piece = self._read(self.ours.fileno())
        finally:
            os.close(self.channel.write_fd)
            self.channel.hang_up()
        self.ended.set()

    def _ready(self, fd: int, event: int) -> bool:
        """Wait for a descriptor; false when the flow was ended meanwhile."""
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self._wake_r, select.POLLIN)
        found = poll.poll()
        return all(ready != self._wake_r for ready, _ in found)

    def _read(self, fd: int) -> memoryview:
        os.set_blocking(fd, False)
        while self._ready(fd, select.POLLIN):
            with contextlib.suppress(BlockingIOError):
                return memoryview(os.read(fd, BUFFER_BYTES))
        return memoryview(b"")

    def _write(self, fd: int, piece: memoryview) -> None:
        os.set_blocking(fd, False)
        while piece:
            if not self._ready(fd, select.POLLOUT):
                raise OpError("pages", "the flow of pages was ended")
            with contextlib.suppress(BlockingIOError):
                done = os.write(fd, piece)
                piece = piece[done:]
                self.bytes += done
                self.moved_s = time.monotonic()
