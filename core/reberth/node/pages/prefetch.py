"""The target's side of the page flow: pages are fetched ahead of CRIU's daemon, which asks for one thing at a time.

Alone, the daemon has one request under way, begins anew with 64 KiB at each fault, and waits a round trip for each:
20 000 touches a second stretch 2 s on a gigabit link to 26 s (facts of this project). So its requests are answered from
what came already; what it needs at once is asked for at once, with its neighbours; and the rest follows, a few
milliseconds of the link ahead. Pages count when they were handed to the daemon, each once.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Optional, Union

from reberth.node.criu.pagemap import lazy_extents
from reberth.node.criu.parents import Local
from reberth.node.errors import OpError
from reberth.node.pages.relay import COMMAND_MASK, HEADERS, PAGE_BYTES, PS_IOV_ADD_F, Channel
from reberth.node.pages.tracker import ASKED, HERE, SERVED, UNASKED, Area, Ledger, Place

PS_IOV_GET, PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE = 7, 0x1023, 0x1024
STATUS_BYTES = 4
CHUNK_PAGES, NEAR_PAGES = 64, 16
CACHE_BYTES = 256 << 20
FIRST_WINDOW_BYTES, LEAST_WINDOW_BYTES, MOST_WINDOW_BYTES = 512 << 10, 128 << 10, 8 << 20
AHEAD_S = 0.004  # how much of the link may be queued before something urgent
READ_BYTES = 1 << 20
MOST_WAITING_BYTES = 8 << 20  # of what the daemon has not taken yet
PRIORITY = -10


class Ask(NamedTuple):
    """A request that the source has not answered yet."""

    place: Place
    pages: int
    sent_s: float


class Prefetch:
    """The flow on the target: same face as `pages.Flow`, in one thread. Without a channel all pages lie here."""

    def __init__(self, channel: Optional[Channel], header_bytes: int, local: Optional[Local] = None) -> None:
        self.channel, self.local = channel, local or Local()
        self.header = HEADERS[header_bytes]
        self.ours, self.theirs = socket.socketpair()
        self.ended = threading.Event()
        self.moved_s = time.monotonic()
        self.bytes = 0
        self.failed = ""
        self.ledger = Ledger([])
        self._wake_r, self._wake_w = os.pipe()
        self._wanted: deque[tuple[Place, int]] = deque()  # the daemon's requests, answered in their order
        self._asked: deque[Ask] = deque()  # ours, which the source answers in their order
        self._cache: dict[Place, memoryview] = {}
        self._to_source, self._to_daemon = bytearray(), bytearray()
        self._from_daemon = bytearray()
        self._head = bytearray()
        self._body: Optional[bytearray] = None
        self._filled = 0
        self._close = b""  # the daemon's last message, kept until all is answered
        self._closed = self._begun = False
        self._window, self._rate = float(FIRST_WINDOW_BYTES), 0.0
        self._least_trip_s = 1.0

    @property
    def pages(self) -> int:
        """Pages that the daemon was given, each counted once."""
        return self.ledger.served

    def load(self, directory: str) -> int:
        """Read which pages are to follow, from the source or from here; returns how many."""
        areas = [
            Area(pid, e.vaddr, e.pages, HERE if self.local.has(pid) else UNASKED) for pid, e in lazy_extents(directory)
        ]
        self.ledger = Ledger(areas)
        for pid, run in self.local.left():
            self.ledger.mark(Place(pid, run.vaddr), run.pages, UNASKED)
        return sum(len(area.state) for area in areas)

    def start(self) -> None:
        """Begin; nothing is fetched before the daemon's first request."""
        self.theirs.close()
        threading.Thread(target=self._run, daemon=True).start()

    def end(self) -> None:
        """No byte passes any more: the daemon reads end of file, and so does the source."""
        with contextlib.suppress(OSError):
            os.write(self._wake_w, b"x")
        for one in (self.ours, self.theirs):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # CRIU's daemon never rests while it waits for us, and takes our processor
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)
        try:
            self._loop()
        except (OSError, OpError, struct.error) as error:
            self.failed = self.failed or str(error)
        finally:
            self.ended.set()
            if self.channel is not None:
                os.close(self.channel.read_fd)
                os.close(self.channel.write_fd)
                self.channel.hang_up()
            self.local.close()
            self.ours.close()
            self._wake_w, wake_w = -1, self._wake_w
            os.close(self._wake_r)
            os.close(wake_w)

    def _loop(self) -> None:
        sock = self.ours.fileno()
        read_fd, write_fd = self.channel[:2] if self.channel else (-1, -1)
        for fd in (sock, read_fd, write_fd):
            if fd >= 0:
                os.set_blocking(fd, False)
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        if read_fd >= 0:
            poll.register(read_fd, select.POLLIN)
        while True:
            poll.register(sock, select.POLLIN | (select.POLLOUT if self._to_daemon else 0))
            self._poll_source(poll, write_fd)
            ready = dict(poll.poll())
            if self._wake_r in ready:
                return
            if sock in ready and ready[sock] & (select.POLLIN | select.POLLHUP) and not self._hear_daemon(sock):
                return
            if read_fd in ready and not self._hear_source(read_fd):
                return
            self._serve()
            self._fetch()
            self._send(write_fd, self._to_source)
            if self._send(sock, self._to_daemon):
                self.moved_s = time.monotonic()

    def _poll_source(self, poll: select.poll, write_fd: int) -> None:
        """Wait for the source to take something only while there is something: one that is gone would wake us on."""
        if write_fd >= 0 and self._to_source:
            poll.register(write_fd, select.POLLOUT)
        elif write_fd >= 0:
            with contextlib.suppress(KeyError):
                poll.unregister(write_fd)

    @staticmethod
    def _send(fd: int, data: bytearray) -> int:
        if data and fd >= 0:
            with contextlib.suppress(BlockingIOError):
                with memoryview(data) as view:
                    done = os.write(fd, view[:READ_BYTES])
                del data[:done]
                return done
        return 0

    # The daemon

    def _hear_daemon(self, sock: int) -> bool:
        with contextlib.suppress(BlockingIOError):
            data = os.read(sock, 1 << 16)
            if not data:
                return False
            self._from_daemon += data
        size = self.header.size
        while len(self._from_daemon) >= size:
            message = bytes(self._from_daemon[:size])
            del self._from_daemon[:size]
            command, pages, address, owner = self.header.unpack(message)
            if command == PS_IOV_GET:
                self._begun = True
                self._wanted.append((Place(owner, address), pages))
            elif command in (PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE):
                self._close = message
            else:
                raise OpError("pages", f"the daemon sent command {command:#x}")
        return True

    def _serve(self) -> None:
        """Answer what the daemon wants from what is here, in its order; CRIU takes fewer pages than it asked for."""
        while self._wanted and len(self._to_daemon) < MOST_WAITING_BYTES:
            place, pages = self._wanted[0]
            got = list(self._here(place, pages))
            if not got:
                return
            self._wanted.popleft()
            count = sum(map(len, got)) // PAGE_BYTES
            command = PS_IOV_ADD_F | (4 << 16)  # PE_PRESENT
            self._to_daemon += self.header.pack(command, count, place.address, place.owner)
            for piece in got:
                self._to_daemon += piece
            self.ledger.mark(place, count, SERVED)

    def _here(self, place: Place, pages: int) -> Iterator[Union[bytes, memoryview]]:
        """Yield what is here of these pages up to the first that is not: of images, and of what the source has sent."""
        at, end = place.address, place.address + pages * PAGE_BYTES
        while at < end:
            here = self.local.find(place.owner, at)
            came = None if here else self._cache.pop(Place(place.owner, at), None)
            piece = self._read(here, (end - at) // PAGE_BYTES) if here else came
            if piece is None:
                return
            yield piece
            at += len(piece)

    @staticmethod
    def _read(here: tuple[int, int, int], pages: int) -> bytes:
        fd, offset, most = here
        size = min(pages, most) * PAGE_BYTES
        data = os.pread(fd, size, offset)
        if len(data) != size:
            raise OpError("images", "an image of an earlier round is shorter than its pagemap says")
        return data

    @staticmethod
    def _row(place: Place, pages: int) -> Iterator[Place]:
        return (Place(place.owner, place.address + i * PAGE_BYTES) for i in range(pages))

    # The source

    def _fetch(self) -> None:
        """Ask for what the daemon waits for, then for what it will."""
        for place, pages in self._wanted:
            if place not in self._cache and self.local.find(*place) is None and not self._is_asked(place):
                found = self.ledger.find(place)
                near = found[0].unasked_from(found[1], max(NEAR_PAGES, min(pages, CHUNK_PAGES))) if found else 0
                self._ask(place, max(1, near))
        if not self._begun:
            return  # the first fault comes while the copy is built: before it no task could use a page
        while not self._close and self._under_way() < self._window and len(self._cache) * PAGE_BYTES < CACHE_BYTES:
            run = self.ledger.next_run(CHUNK_PAGES)
            if run is None:
                break
            self._ask(*run)
        if self._close and not self._asked and not self._wanted and not self._closed:
            self._closed = True
            if self.channel is None:
                self._to_daemon += bytes(STATUS_BYTES)
            else:
                self._to_source += self._close

    def _is_asked(self, place: Place) -> bool:
        return any(
            a.place.owner == place.owner and 0 <= place.address - a.place.address < a.pages * PAGE_BYTES
            for a in self._asked
        )

    def _under_way(self) -> int:
        return sum(ask.pages for ask in self._asked) * PAGE_BYTES

    def _ask(self, place: Place, pages: int) -> None:
        self.ledger.mark(place, pages, ASKED)
        self._asked.append(Ask(place, pages, time.monotonic()))
        self._to_source += self.header.pack(PS_IOV_GET, pages, place.address, place.owner)

    def _hear_source(self, fd: int) -> bool:
        try:
            data = memoryview(os.read(fd, READ_BYTES))
        except BlockingIOError:
            return True
        if not data:
            return False
        self.bytes += len(data)
        self.moved_s = time.monotonic()
        while data:
            data = self._take(data)
        return True

    def _take(self, data: memoryview) -> memoryview:
        """One step through the source's answers; returns what is left of this piece."""
        if self._closed:
            self._to_daemon += data  # the status of the end
            return data[len(data) :]
        if self._body is None:
            step = min(self.header.size - len(self._head), len(data))
            self._head += data[:step]
            if len(self._head) == self.header.size:
                self._begin(*self.header.unpack(bytes(self._head)))
                self._head.clear()
            return data[step:]
        step = min(len(self._body) - self._filled, len(data))
        self._body[self._filled : self._filled + step] = data[:step]
        self._filled += step
        if self._filled == len(self._body):
            self._end_reply(memoryview(bytes(self._body)))
        return data[step:]

    def _begin(self, command: int, pages: int, address: int, owner: int) -> None:
        ask = self._asked[0] if self._asked else None
        place = Place(owner, address)
        if command & COMMAND_MASK != PS_IOV_ADD_F or ask is None or place != ask.place or not 0 < pages <= ask.pages:
            raise OpError("pages", f"no page of CRIU's: command {command:#x}, {pages} pages at {address:#x}")
        self._body, self._filled = bytearray(pages * PAGE_BYTES), 0

    def _end_reply(self, body: memoryview) -> None:
        ask = self._asked.popleft()
        pages = len(body) // PAGE_BYTES
        for number, at in enumerate(self._row(ask.place, pages)):
            self._cache[at] = body[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
        if pages < ask.pages:
            rest = Place(ask.place.owner, ask.place.address + pages * PAGE_BYTES)
            self.ledger.mark(rest, ask.pages - pages, UNASKED)
            self.ledger.rewind()
        self._body = None
        self._adapt(len(body), time.monotonic() - ask.sent_s)

    def _adapt(self, size: int, trip_s: float) -> None:
        """Keep a few milliseconds of the link under way: the rate is what was under way over how long it took."""
        self._least_trip_s = min(self._least_trip_s, max(trip_s, 1e-4))
        rate = (self._under_way() + size) / max(trip_s, 1e-4)
        self._rate = rate if not self._rate else 0.9 * self._rate + 0.1 * rate
        window = self._rate * max(AHEAD_S, 1.5 * self._least_trip_s)
        self._window = min(max(window, LEAST_WINDOW_BYTES), MOST_WINDOW_BYTES)
