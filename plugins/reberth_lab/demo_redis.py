"""As much of Redis's protocol (RESP2) as the demo speaks."""

from __future__ import annotations

import socket
from collections.abc import Iterator

Reply = bytes | int | None | list["Reply"]


class RedisError(Exception):
    """The server answered with an error, or with something that is no answer."""


def encode(*words: bytes | str) -> bytes:
    """One command: an array of bulk strings."""
    parts = [word.encode() if isinstance(word, str) else word for word in words]
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)])


class Decoder:
    """Turns received bytes into replies; a reply that is not complete yet stays in the buffer."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Yield the replies that are complete with `data`; raises RedisError for an error reply."""
        self._buffer += data
        while True:
            parsed = self._parse(0)
            if parsed is None:
                return
            reply, end = parsed
            del self._buffer[:end]
            yield reply

    def _parse(self, at: int) -> tuple[Reply, int] | None:
        end = self._buffer.find(b"\r\n", at)
        if end < 0:
            return None
        kind, text, after = self._buffer[at : at + 1], bytes(self._buffer[at + 1 : end]), end + 2
        if kind == b"+":
            return text, after
        if kind == b":":
            return int(text), after
        if kind == b"$":
            return self._bulk(int(text), after)
        if kind == b"*":
            return self._array(int(text), after)
        raise RedisError(text.decode(errors="replace"))

    def _bulk(self, length: int, at: int) -> tuple[Reply, int] | None:
        if length < 0:
            return None, at
        if len(self._buffer) < at + length + 2:
            return None
        return bytes(self._buffer[at : at + length]), at + length + 2

    def _array(self, count: int, at: int) -> tuple[Reply, int] | None:
        items: list[Reply] = []
        for _ in range(count):
            parsed = self._parse(at)
            if parsed is None:
                return None
            items.append(parsed[0])
            at = parsed[1]
        return items, at


class Connection:
    """A plain blocking connection for what is not measured: preload and verification."""

    def __init__(self, address: str, port: int, timeout_s: float = 10) -> None:
        self._socket = socket.create_connection((address, port), timeout=timeout_s)
        self._decoder = Decoder()
        self._ready: list[Reply] = []

    def ask(self, *words: bytes | str) -> Reply:
        """One command and its reply; raises RedisError, or OSError when the server is gone."""
        return self.ask_all([words])[0]

    def ask_all(self, commands: list[tuple[bytes | str, ...]]) -> list[Reply]:
        """Many commands in one go (keep them few enough that their replies fit the sockets' buffers)."""
        self._socket.sendall(b"".join(encode(*words) for words in commands))
        while len(self._ready) < len(commands):
            data = self._socket.recv(1 << 20)
            if not data:
                raise ConnectionError("the server has closed the connection")
            self._ready += self._decoder.feed(data)
        replies, self._ready = self._ready[: len(commands)], self._ready[len(commands) :]
        return replies

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()
