"""A process that talks to peers outside: whatever they send comes back, byte by byte; the peers do the counting."""

from __future__ import annotations

import argparse
import selectors
import socket

from workloads.base import Checks, Workload

CHUNK_BYTES = 65536


class Echo(Workload):
    """Answers on one address and port; a plant spoils what comes back, for the peers to notice."""

    kind = "echo"

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Where it listens."""
        parser.add_argument("--listen", default="127.0.0.1", help="an address of the node")
        parser.add_argument("--port", type=int, default=0)

    def setup(self) -> None:
        """Listen."""
        family = socket.AF_INET6 if ":" in self.options.listen else socket.AF_INET
        self.spoil = ""
        self.broken = 0
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((self.options.listen, self.options.port))
        self.listener.listen(128)
        self.listener.setblocking(False)
        self.ready = selectors.DefaultSelector()
        self.ready.register(self.listener, selectors.EVENT_READ)

    def step(self, elapsed_s: float) -> float:
        """Answer whoever has sent something."""
        for key, _ in self.ready.select(0):
            if key.fileobj is self.listener:
                peer, _ = self.listener.accept()
                peer.setblocking(False)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.ready.register(peer, selectors.EVENT_READ)
            elif isinstance(key.fileobj, socket.socket):
                self._answer(key.fileobj)
        return 0.0

    def _answer(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(CHUNK_BYTES)
            spoil, self.spoil = (self.spoil, "") if data else ("", self.spoil)
            peer.sendall({"swallow": data[8:], "twice": data[:8] + data}.get(spoil, data))
        except OSError:
            self.broken += 1
            data = b""
        if not data or spoil == "reset":
            self.ready.unregister(peer)
            peer.close()

    def verify(self, checks: Checks) -> None:
        """It listens where it did, and no connection broke."""
        name = self.listener.getsockname()
        checks.equal("listening address", name[0], self.options.listen)
        checks.equal("connections that broke", self.broken, 0)
        checks.count("connections", len(self.ready.get_map()) - 1)
        checks.count("listeners")

    def plant(self, kind: str) -> None:
        """The next answer loses a message, has one twice, or ends the connection."""
        if kind not in ("swallow", "twice", "reset"):
            raise KeyError(kind)
        self.spoil = kind

    def close(self) -> None:
        """Nothing to end."""
