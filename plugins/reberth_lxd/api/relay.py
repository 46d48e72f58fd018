"""The bytes between two daemons that do not reach each other, passed on by this machine.

What a daemon sends as a server we send on as a client, whose frames must be masked. The mask is four zeroes, which
leave the data as they are: so a frame's head alone is written anew, whatever its size. Nothing is looked at or kept.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Mapping
from urllib.parse import quote

from reberth_hooks import CommandError, Node
from reberth_lxd.api import websocket

READ_BYTES, WAITING_BYTES, SEND_BYTES = 64 << 10, 1 << 20, 64 << 10
LOOK_MS = 500
MASKED, NO_MASK = 0x80, bytes(4)
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Heads:
    """Frames of a server as those of a client; keeps what came of a head that is not whole yet."""

    def __init__(self) -> None:
        self.begun, self.left = b"", 0

    def masked(self, data: bytes) -> bytes:
        """Return the same data under heads that say masked; ValueError for a frame that is masked already."""
        data, at, found = self.begun + data, 0, list[bytes]()
        self.begun = b""
        while at < len(data):
            if self.left:
                found.append(data[at : at + self.left])
                at += len(found[-1])
                self.left -= len(found[-1])
                continue
            head = data[at : at + 10]
            short = head[1] if len(head) > 1 else 0
            if short & MASKED:
                raise ValueError("a daemon's frame is masked")
            wide = {126: 2, 127: 8}.get(short, 0)
            if len(head) < 2 + wide:
                self.begun = head
                break
            self.left = int.from_bytes(head[2 : 2 + wide], "big") if wide else short
            found += [head[:1], bytes([short | MASKED]), head[2 : 2 + wide], NO_MASK]
            at += 2 + wide
        return b"".join(found)


class _End:
    """One connection, and what is to be sent on it."""

    def __init__(self, sock: socket.socket, came: bytes) -> None:
        sock.setblocking(False)
        self.socket, self.heads, self.out, self.came, self.ended = sock, Heads(), bytearray(), came, False

    def read(self, other: _End) -> bool:
        """Take what is there, as long as the other end keeps up; whether there was anything."""
        moved = False
        while not self.ended and len(other.out) < WAITING_BYTES:
            data, self.came = self.came, b""
            if not data:
                try:
                    data = self.socket.recv(READ_BYTES)
                except NOT_NOW:
                    break
                except OSError:
                    data = b""
            self.ended = not data
            other.out += self.heads.masked(data)
            moved = True
        return moved

    def write(self) -> bool:
        """Send what can be sent now; whether there was anything."""
        moved = False
        while self.out:
            try:
                sent = self.socket.send(memoryview(self.out)[:SEND_BYTES])
            except NOT_NOW:
                break
            del self.out[:sent]
            moved = True
        return moved


class _Pair:
    """The same stream at both daemons."""

    def __init__(self, ends: tuple[_End, _End]) -> None:
        self.ends, self.over = ends, False

    def pump(self) -> int:
        """Pass on until nothing moves; returns how many bytes are still to be sent."""
        one, two = self.ends
        try:
            while one.read(two) | two.read(one) | one.write() | two.write():
                pass
        except (OSError, ValueError):
            self.over = True
        self.over |= (one.ended and not two.out) or (two.ended and not one.out)
        return len(one.out) + len(two.out)

    def close(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.socket.close()


class Relay:
    """Passes on every stream of two operations from the moment it is made, by one thread.

    One thread, as no TLS connection of Python may be read and written by two at once.
    """

    def __init__(self, nodes: tuple[Node, Node], urls: tuple[str, str], secrets: tuple[Mapping[str, str], ...]) -> None:
        """Connect all streams at both ends; CommandError when one of the daemons does not take it."""
        if secrets[0].keys() != secrets[1].keys():
            raise CommandError(
                f"the daemons' streams differ: {', '.join(sorted(secrets[0].keys() ^ secrets[1].keys()))}"
            )
        self.pairs: list[_Pair] = []
        self._stop = threading.Event()
        with contextlib.ExitStack() as failed:
            try:
                for stream in secrets[0]:
                    here, there = (
                        _end(node, url, words[stream], failed)
                        for node, url, words in zip(nodes, urls, secrets, strict=True)
                    )
                    self.pairs.append(_Pair((here, there)))
            except (OSError, ValueError) as error:
                raise CommandError(f"a daemon does not let this machine pass on its data: {error}") from error
            failed.pop_all()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections; the daemons take that for an end of each other."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self.pairs and not self._stop.is_set():
                for pair in self.pairs:
                    pair.pump()
                    if pair.over:
                        pair.close()
                self.pairs = [pair for pair in self.pairs if not pair.over]
                self._wait()
        finally:
            self._close()

    def _wait(self) -> None:
        """Until something can be read or sent."""
        poll = select.poll()
        for pair in self.pairs:
            for end, other in (pair.ends, pair.ends[::-1]):
                wants = (select.POLLIN if len(other.out) < WAITING_BYTES and not end.ended else 0) | (
                    select.POLLOUT if end.out else 0
                )
                if wants:
                    poll.register(end.socket, wants)
        poll.poll(LOOK_MS)

    def _close(self) -> None:
        for pair in self.pairs:
            pair.close()


def _end(node: Node, url: str, secret: str, failed: contextlib.ExitStack) -> _End:
    sock, came = websocket.connect(node, f"{url}/websocket?secret={quote(secret, safe='')}")
    return _End(failed.enter_context(sock), came)
