"""The demo's client: writes and reads at a fixed rate, come what may, and remembers each acknowledged write.

It is an open loop: what is due while no server answers is sent late, and its waiting time counts. A request whose reply
was lost with its connection is sent again. That is what makes `--tcp-close` bearable for real clients, too.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reberth_lab.demo_redis import Decoder, RedisError, Reply, encode

RATE_HZ = 400  # every other request is a read
SILENT_S = 0.05  # after that long without the reply that is due, the other server is tried as well
PAUSE_S = 0.005


@dataclass
class Tally:
    """What the client saw. Times in seconds of time.monotonic."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    reads: int = 0
    wrong_reads: list[str] = field(default_factory=list)
    longest_silence_s: float = 0.0
    slowest_s: float = 0.0
    connections: int = 0
    served_by: list[str] = field(default_factory=list)  # a server each time that it changed
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """One request and when it was due."""

    due_s: float
    key: str
    value: str
    write: bool

    def encoded(self) -> bytes:
        """As the server reads it."""
        return encode("SET", self.key, self.value) if self.write else encode("GET", self.key)


class Client(threading.Thread):
    """Runs until `stop`; `tally` may be read after that."""

    def __init__(self, servers: Mapping[str, str], port: int) -> None:
        """`servers`: name -> address."""
        super().__init__(name="demo-client", daemon=True)
        self.tally = Tally()
        self._servers = dict(servers)
        self._port = port
        self._ending = threading.Event()
        self._waiting: deque[Request] = deque()
        self._sent: deque[Request] = deque()
        self._socket: socket.socket | None = None
        self._server = ""
        self._decoder = Decoder()
        self._started_s = time.monotonic()
        self._last_reply_s = self._started_s
        self._made = 0

    def stop(self) -> None:
        """Lets what was sent be answered (for a second at most) and ends the thread."""
        self._ending.set()
        self.join(timeout=10)

    def run(self) -> None:
        """The loop: make what is due, send it, read replies, find a server that answers."""
        self._started_s = self._last_reply_s = time.monotonic()
        end_s: float | None = None
        while end_s is None or (time.monotonic() < end_s and (self._waiting or self._sent)):
            if end_s is None and self._ending.is_set():
                end_s = time.monotonic() + 1
            if end_s is None:
                self._make_due()
            try:
                self._step()
            except RedisError as error:
                self.tally.errors.append(str(error))
                self._drop()
            except OSError:
                self._drop()
        self._drop()

    def _make_due(self) -> None:
        now = time.monotonic()
        while (due := self._started_s + self._made / RATE_HZ) <= now:
            number = self._made // 2
            self._waiting.append(Request(due, f"key:{number}", f"value:{number}", self._made % 2 == 0))
            self._made += 1

    def _step(self) -> None:
        if self._socket is None:
            self._find(self._servers)
            return
        while self._waiting:
            request = self._waiting.popleft()
            self._sent.append(request)
            self._socket.sendall(request.encoded())
        if select.select([self._socket], [], [], 1 / RATE_HZ)[0]:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError
            for reply in self._decoder.feed(data):
                self._take(self._sent.popleft(), reply)
        elif self._sent and time.monotonic() - self._last_reply_s > SILENT_S:
            # Only the other server: a new connection that a frozen one cannot accept would be in flight in its dump.
            self._find([server for server in self._servers if server != self._server])

    def _take(self, request: Request, reply: Reply) -> None:
        now = time.monotonic()
        tally = self.tally
        tally.longest_silence_s = max(tally.longest_silence_s, now - self._last_reply_s)
        tally.slowest_s = max(tally.slowest_s, now - request.due_s)
        self._last_reply_s = now
        if not tally.served_by or tally.served_by[-1] != self._server:
            tally.served_by.append(self._server)
        if request.write:
            if reply == b"OK":
                tally.acknowledged[request.key] = request.value
            return
        tally.reads += 1
        expected = tally.acknowledged.get(request.key)
        if expected is not None and reply != expected.encode():
            tally.wrong_reads.append(request.key)

    def _find(self, servers: Iterable[str]) -> None:
        """Takes the first server that answers a PING; what was not answered is sent again, in its order."""
        for server in servers:
            found = self._try(server)
            if found is None:
                continue
            self._drop()
            self._socket, self._server, self._decoder = found, server, Decoder()
            self.tally.connections += 1
            return
        time.sleep(PAUSE_S)

    def _try(self, server: str) -> socket.socket | None:
        connection = None
        try:
            connection = socket.create_connection((self._servers[server], self._port), timeout=SILENT_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(encode("PING"))
            if connection.recv(64) == b"+PONG\r\n":
                connection.settimeout(5)
                return connection
        except OSError:
            pass
        if connection is not None:
            connection.close()
        return None

    def _drop(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
        self._socket = None
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
