"""Websockets to a daemon, whose certificate is compared with the pinned one before a byte is sent; pylxd's do not."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from reberth_hooks import Node, UntrustedError
from reberth_lxd.https import connect as https

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MOST_BYTES = 1 << 20  # an event of a daemon has a few hundred


class Stream:
    """Frames of a websocket, put together to messages; pings are answered."""

    def __init__(self, sock: socket.socket, rest: bytes) -> None:
        self.socket, self.rest = sock, rest

    def message(self) -> bytes:
        """Return the next whole message; EOFError at the end."""
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


def connect(node: Node, path: str) -> tuple[socket.socket, bytes]:
    """Return a websocket to the daemon, and what came behind its answer; UntrustedError for another certificate."""
    url = urlsplit(https.url_of(node))
    if url.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(https.CONNECT_S)
        sock.connect(url.path)
    else:
        sock = _secure(node, str(url.hostname), url.port or 443)
    try:
        return sock, _upgrade(sock, url.hostname or "unix", path)
    except BaseException:
        sock.close()
        raise


def _upgrade(sock: socket.socket, host: str, path: str) -> bytes:
    """Ask for the stream; returns what came behind the daemon's answer, ValueError when that is a no."""
    key = base64.b64encode(os.urandom(16)).decode()
    words = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13")
    sock.sendall("\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *words, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = sock.recv(4096)
        answer += more
        if not more or len(answer) > 65536:
            raise ValueError(f"no answer: {answer[:80]!a}")
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b" 101 " not in head.split(b"\r\n")[0]:
        raise ValueError(f"no stream: {head[:80]!a}")
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
