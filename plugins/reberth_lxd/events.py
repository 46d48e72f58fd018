"""The log events of a daemon while it moves something: rounds and failures that no operation tells.

A websocket of our own, as pylxd's does not look at the daemon's certificate: here it is compared with the pinned one
before a byte is sent. Of the events only those are kept that say something of a move.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reberth_hooks import Node, ReberthError, UntrustedError
from reberth_lxd import https

PATH = "/1.0/events?type=logging"
PAGES, DUMPS, DUMPED = "CRIU pages", "Final CRIU dump started", "Dump finished"
MOVED, FAILED = "Migrated container", "Failed migrat"
KEPT = (PAGES, DUMPS, DUMPED, MOVED, FAILED)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MOST_BYTES = 64 << 20


class Events:
    """Listens from the moment it is made; one that cannot be had leaves no events and a reason in `trouble`."""

    def __init__(self, node: Node) -> None:
        self.kept: list[tuple[float, str, dict[str, Any]]] = []
        self.trouble, self._socket = "", None
        try:
            self._socket, rest = _open(node)
        except (OSError, ValueError, ReberthError) as error:
            self.trouble = str(error)
            return
        threading.Thread(target=self._read, args=(_Stream(self._socket, rest),), daemon=True).start()

    def said(self, word: str) -> list[tuple[float, dict[str, Any]]]:
        """When (our boot clock, seconds) a message with this word came, and its context."""
        return [(at, context) for at, message, context in list(self.kept) if word in message]

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _read(self, stream: _Stream) -> None:
        with contextlib.suppress(OSError, ValueError, EOFError):
            while True:
                self._take(stream.message())

    def _take(self, text: bytes) -> None:
        if not any(word.encode() in text for word in KEPT):
            return
        said = json.loads(text).get("metadata") or {}
        message = str(said.get("message", ""))
        if message.startswith(KEPT):
            self.kept.append((time.clock_gettime(time.CLOCK_BOOTTIME), message, dict(said.get("context") or {})))


class _Stream:
    """Frames of a websocket, put together to messages; pings are answered."""

    def __init__(self, sock: socket.socket, rest: bytes) -> None:
        self.socket, self.rest = sock, rest

    def message(self) -> bytes:
        """The next whole message; EOFError at the end."""
        whole = b""
        while True:
            first, second = self._take(2)
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
            if size + len(whole) > MOST_BYTES or second & 0x80:
                raise ValueError("no message of a server")
            data, kind = self._take(size), first & 0xF
            if kind == PING:
                self.socket.sendall(bytes([0x80 | PONG, 0x80 | len(data)]) + bytes(4) + data)  # masked by zeroes
            elif kind == CLOSE:
                raise EOFError
            elif kind in (0, TEXT, BINARY):
                whole += data
                if first & 0x80:
                    return whole

    def _take(self, count: int) -> bytes:
        while len(self.rest) < count:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError
            self.rest += more
        found, self.rest = self.rest[:count], self.rest[count:]
        return found


def _open(node: Node) -> tuple[socket.socket, bytes]:
    """A websocket to the daemon, and what came behind its answer; UntrustedError for another certificate."""
    url = urlsplit(https.url_of(node))
    if url.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(https.CONNECT_S)
        sock.connect(url.path)
    else:
        sock = _secure(node, str(url.hostname), url.port or 443)
    try:
        return sock, _upgrade(sock, url.hostname or "unix")
    except BaseException:
        sock.close()
        raise


def _upgrade(sock: socket.socket, host: str) -> bytes:
    """Ask for the events; answers what came behind the daemon's answer, ValueError when that is a no."""
    key = base64.b64encode(os.urandom(16)).decode()
    words = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13")
    sock.sendall("\r\n".join([f"GET {PATH} HTTP/1.1", f"Host: {host}", *words, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = sock.recv(4096)
        answer += more
        if not more or len(answer) > 65536:
            raise ValueError(f"no answer: {answer[:80]!a}")
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b" 101 " not in head.split(b"\r\n")[0]:
        raise ValueError(f"no events: {head[:80]!a}")
    sock.settimeout(None)
    return rest


def _secure(node: Node, host: str, port: int) -> socket.socket:
    """TLS with our certificate; the daemon's is the pinned one, or one that the system's authorities vouch for."""
    context, pinned = ssl.create_default_context(), https.pinned(node)
    context.load_cert_chain(*https.own(node))
    if pinned is not True:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the comparison below says more
    with contextlib.ExitStack() as failed:
        plain = failed.enter_context(socket.create_connection((host, port), https.CONNECT_S))
        sock = failed.enter_context(context.wrap_socket(plain, server_hostname=host))
        shown = sock.getpeercert(True)
        if pinned is not True and shown != ssl.PEM_cert_to_DER_cert(Path(str(pinned)).read_text(encoding="ascii")):
            raise UntrustedError(f"the daemon of node {node.name} does not show the certificate that is pinned for it")
        failed.pop_all()
    return sock
