"""A peer outside the nodes: connections to one address, numbered messages, and what became of each of them."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

MESSAGE = struct.Struct("!Q")
PAUSE_S = 0.001


@dataclass
class Line:
    """One connection: the numbers that it sent, those that came back, and the longest wait between two of these."""

    peer: socket.socket
    sent: int = 0
    got: int = 0
    rest: bytes = b""
    problems: list[str] = field(default_factory=list)
    heard_s: float = 0.0
    gap_s: float = 0.0

    def send(self) -> None:
        """The next number, unless the socket is full: the kernel counts more than its eight bytes for each."""
        try:
            if self.peer.send(MESSAGE.pack(self.sent)) != MESSAGE.size:
                self.problems.append(f"message {self.sent} was cut")
            self.sent += 1
        except BlockingIOError:
            return
        except OSError as error:
            self.problems.append(f"sending message {self.sent}: {error}")

    def receive(self) -> None:
        """What came back must be exactly the numbers that follow."""
        try:
            data = self.peer.recv(1 << 16)
        except OSError as error:
            self.problems.append(f"after {self.got} answers: {error}")
            return
        if not data:
            self.problems.append(f"closed after {self.got} answers")
            return
        now_s = time.monotonic()
        self.gap_s, self.heard_s = max(self.gap_s, now_s - self.heard_s), now_s
        data = self.rest + data
        whole = len(data) // MESSAGE.size * MESSAGE.size
        self.rest = data[whole:]
        for (number,) in MESSAGE.iter_unpack(data[:whole]):
            if number != self.got:
                self.problems.append(f"answer {number} came where {self.got} was due")
                return
            self.got += 1


class Talk:
    """Some connections that talk until `end`; a problem stops its own connection only."""

    def __init__(self, address: str, port: int, count: int = 1) -> None:
        self.lines = [Line(socket.create_connection((address, port), timeout=10)) for _ in range(count)]
        self.pause_s = PAUSE_S * max(1, count // 5)
        self._ready = selectors.DefaultSelector()
        for line in self.lines:
            line.peer.setblocking(False)
            line.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.heard_s = time.monotonic()
            self._ready.register(line.peer, selectors.EVENT_READ, line)
        self._quiet = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        next_s = time.monotonic()
        end_s = float("inf")
        while time.monotonic() < end_s:
            if self._quiet.is_set():
                end_s = min(end_s, time.monotonic() + 15)
                if all(line.problems or line.got == line.sent for line in self.lines):
                    break
            elif time.monotonic() >= next_s:
                next_s = max(next_s + self.pause_s, time.monotonic() - 1)
                for line in self.lines:
                    if not line.problems:
                        line.send()
            for key, _ in self._ready.select(max(0.0, min(next_s, end_s) - time.monotonic()) if end_s != next_s else 0):
                key.data.receive()
                if key.data.problems:
                    self._ready.unregister(key.fileobj)

    def wait_for(self, more: int, limit_s: float = 15.0) -> None:
        """Wait until each connection has had so many more answers."""
        due = [line.got + more for line in self.lines]
        end_s = time.monotonic() + limit_s
        while any(line.got < number and not line.problems for line, number in zip(self.lines, due, strict=True)):
            assert time.monotonic() < end_s, f"answers stay out: {[line.got for line in self.lines][:5]} {due[:5]}"
            time.sleep(0.01)

    def end(self) -> None:
        """Send no more, wait for the last answers, and close."""
        self._quiet.set()
        self._thread.join(30)
        for line in self.lines:
            line.peer.close()

    @property
    def gap_s(self) -> float:
        """The longest silence of any connection."""
        return max(line.gap_s for line in self.lines)

    def problems(self) -> list[str]:
        """Each thing that went wrong; messages without an answer too, after `end`."""
        found = [f"connection {n}: {text}" for n, line in enumerate(self.lines) for text in line.problems]
        missing = [f"connection {n}: {x.sent - x.got} answers missing" for n, x in enumerate(self.lines)]
        return found + [
            text for text, x in zip(missing, self.lines, strict=True) if self._quiet.is_set() and x.sent != x.got
        ]
