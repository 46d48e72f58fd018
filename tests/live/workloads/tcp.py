"""Two processes with many TCP connections between them, data always in flight."""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import time

from workloads.base import ANSWER_LIMIT_S, Checks, Workload, content, first_difference, wait_until

BLOCK_BYTES = 65536
CHUNK_BYTES = 1024
AHEAD_BYTES = 8192
SERVER_PAUSE_S = 0.005
SERVER_CHUNK_BYTES = 4096


class Connection:
    """The client's end of one connection: a known stream goes out and must come back, byte by byte."""

    def __init__(self, index: int, seed: int, address: tuple[str, int]) -> None:
        self.index = index
        block = content(seed, f"connection {index}", BLOCK_BYTES)
        self.stream = block + block  # any slice up to BLOCK_BYTES without a seam
        self.sent = 0
        self.received = 0
        self.problem = ""
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, index % 2)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, index % 3 == 0)
        self.names = (self.socket.getsockname(), self.socket.getpeername())
        self.socket.setblocking(False)

    def send(self) -> None:
        """Send a little more unless enough is on its way."""
        if self.sent - self.received < AHEAD_BYTES and not self.problem:
            start = self.sent % BLOCK_BYTES
            try:
                self.sent += self.socket.send(self.stream[start : start + CHUNK_BYTES])
            except BlockingIOError:
                return
            except OSError as error:
                self.problem = f"sending: {error}"

    def receive(self) -> None:
        """Take what came back and compare it."""
        try:
            found = self.socket.recv(CHUNK_BYTES * 8)
        except BlockingIOError:
            return
        except OSError as error:
            self.problem = self.problem or f"receiving: {error}"
            return
        start = self.received % BLOCK_BYTES
        expected = self.stream[start : start + len(found)]
        if found != expected:
            place = self.received + first_difference(found, expected)
            self.problem = self.problem or f"wrong byte at {place} of the stream"
        self.received += len(found)
        if not found:
            self.problem = self.problem or "closed by the peer"

    def drained(self) -> bool:
        """Take everything that is there; true when all that was sent came back or never will."""
        self.receive()
        return bool(self.problem) or self.received >= self.sent

    def check(self, checks: Checks) -> None:
        """The stream is whole, the addresses and options are the same."""
        where = f"connection {self.index}"
        checks.expect(not self.problem, f"{where}: {self.problem}")
        checks.equal(f"{where}: bytes that came back", self.received, self.sent)
        checks.equal(f"{where}: addresses", (self.socket.getsockname(), self.socket.getpeername()), self.names)
        no_delay = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        checks.equal(f"{where}: TCP_NODELAY", bool(no_delay), bool(self.index % 2))
        keep_alive = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        checks.equal(f"{where}: SO_KEEPALIVE", bool(keep_alive), self.index % 3 == 0)


class Tcp(Workload):
    """``--count`` connections from this process to a child that echoes slowly, so that queues are never empty.

    ``--unaccepted`` more stay in the listener's backlog: criu refuses those, for tests of the preflight.
    """

    kind = "tcp"
    plants = ("byte", "swallow", "close", "option", "server", "listener")

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Number of connections and their address."""
        parser.add_argument("--count", type=int, default=50)
        parser.add_argument("--address", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=0)
        parser.add_argument("--unaccepted", type=int, default=0)

    def setup(self) -> None:
        """Start the server and connect."""
        family = socket.AF_INET6 if ":" in self.options.address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.options.address, self.options.port))
        listener.listen(self.options.count + self.options.unaccepted + 8)
        self.address = listener.getsockname()[:2]
        self.server = os.fork()
        if self.server == 0:
            try:
                Server(listener, self.options.count, probes=not self.options.unaccepted).run(os.getppid())
            finally:
                os._exit(1)
        listener.close()
        self.connections = [Connection(index, self.seed, self.address) for index in range(self.options.count)]
        self.turn = 0
        for connection in self.connections:
            connection.send()
        wait_until(lambda: self._all_received_something(), ANSWER_LIMIT_S)
        self.waiting = [socket.create_connection(self.address) for _ in range(self.options.unaccepted)]

    def step(self, elapsed_s: float) -> float:
        """Serve a few connections."""
        for _ in range(min(5, len(self.connections))):
            connection = self.connections[self.turn % len(self.connections)]
            connection.send()
            connection.receive()
            self.turn += 1
        return 0.0

    def verify(self, checks: Checks) -> None:
        """Wait until everything sent came back, then compare; then connect anew."""
        wait_until(lambda: all([connection.drained() for connection in self.connections]), ANSWER_LIMIT_S)
        for connection in self.connections:
            checks.guard(f"connection {connection.index}", lambda one=connection: one.check(checks))  # type: ignore[misc]
            connection.send()
        checks.count("connections", len(self.connections))
        checks.count("bytes", sum(connection.received for connection in self.connections))
        if not self.waiting:
            checks.guard("a new connection", lambda: self._check_listener(checks))

    def plant(self, kind: str) -> None:
        """Damage the last connection or its server."""
        connection = self.connections[-1]
        connection.socket.setblocking(True)
        if kind == "byte":
            start = connection.sent % BLOCK_BYTES
            connection.socket.send(bytes([connection.stream[start] ^ 1]))
            connection.sent += 1
        elif kind == "swallow":
            connection.send()
            connection.socket.recv(1)
        elif kind == "close":
            connection.socket.shutdown(socket.SHUT_RDWR)
        elif kind == "option":
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1 - connection.index % 2)
        elif kind == "server":
            os.kill(self.server, signal.SIGKILL)
        elif kind == "listener":
            os.kill(self.server, signal.SIGUSR1)
            time.sleep(0.05)
        else:
            raise KeyError(kind)
        connection.socket.setblocking(False)

    def close(self) -> None:
        """End the server."""
        os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)

    def _all_received_something(self) -> bool:
        for connection in self.connections:
            connection.receive()
        return all(connection.received or connection.problem for connection in self.connections)

    def _check_listener(self, checks: Checks) -> None:
        with socket.create_connection(self.address, timeout=ANSWER_LIMIT_S) as probe:
            probe.sendall(b"echo?")
            checks.equal("echo on a new connection", probe.recv(16), b"echo?")


class Server:
    """Echoes on all connections, with a delay so that bytes wait in both directions."""

    def __init__(self, listener: socket.socket, limit: int, *, probes: bool) -> None:
        self.listener = listener
        self.limit = limit  # connections that stay
        self.probes = probes  # accept more, for new connections during a verification
        self.open: dict[int, socket.socket] = {}
        self.poll = select.poll()

    def run(self, parent: int) -> None:
        """Serve until the parent is gone."""
        for ours in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(ours, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, lambda *_: self.listener.close())
        while len(self.open) < self.limit:
            self._accept()
        self.listener.setblocking(False)
        while os.getppid() == parent:
            time.sleep(SERVER_PAUSE_S)
            if self.probes and self.listener.fileno() >= 0:
                self._accept()
            for number, _ in self.poll.poll(0):
                self._echo(self.open[number])

    def _accept(self) -> None:
        try:
            connection = self.listener.accept()[0]
        except BlockingIOError:
            return
        connection.setblocking(True)
        self.open[connection.fileno()] = connection
        self.poll.register(connection, select.POLLIN)

    def _echo(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(SERVER_CHUNK_BYTES)
            if data:
                connection.sendall(data)
                return
        except OSError:
            data = b""
        self.poll.unregister(connection)
        del self.open[connection.fileno()]
        connection.close()
