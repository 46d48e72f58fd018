"""Connections straight from source to target, where the target's owner has allowed it (`direct` of the node).

One carries the data, one is the line on which the target tells how its end stands (`runs/peer.py`), and one may be
looked at before, to know how fast that way is.

For each the target listens on one address, for one peer, for a few seconds before the freeze. Both sides are known by
certificates made for this run alone: each helper makes its own with openssl(1), its key never leaves the node, and the
certificates travel through the controller's authenticated connections. No other one is accepted, on either side.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Callable

from reberth.node.errors import OpError
from reberth.node.runs.peer import Line
from reberth.node.system import spawn

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon

WAIT_S = 6.0
BUFFER_BYTES = 1 << 20
F_SETPIPE_SZ = 1031
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, for which Python's ssl has no name
WELCOME = b"+"


def identity(daemon: Daemon, progress: Any) -> str:
    """Make a key and a certificate of this helper; returns the certificate."""
    key, certificate = (os.path.join(daemon.dir, name) for name in ("direct.key", "direct.pem"))
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += ["-days", "2", "-subj", "/CN=reberth", "-keyout", key, "-out", certificate]
    done = spawn.run(argv, timeout_s=10.0)
    if done["code"] != 0:
        raise OpError("direct", "openssl could not make a certificate", tail=done["err"][-500:])
    with open(certificate, encoding="ascii") as file:
        return file.read()


def _context(daemon: Daemon, server: bool, peer: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the peer is known by its very certificate, not by a name
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=peer)
    # One that was made just now begins in the future for a clock that is behind. Its end is looked at by `_greet`.
    context.verify_flags |= NO_CHECK_TIME
    context.load_cert_chain(os.path.join(daemon.dir, "direct.pem"), os.path.join(daemon.dir, "direct.key"))
    return context


def listen(daemon: Daemon, progress: Any, peer: str, address: str = "", use: str = "data") -> dict[str, Any]:
    """Wait for one peer on one address: the given one, else that by which ssh reached this node."""
    joined = _use(use)
    words = os.environ.get("SSH_CONNECTION", "").split()
    address = address or (words[2] if len(words) == 4 else "")
    if not address:
        raise OpError("direct", "no address of this node is known", hint='name it: direct = "ADDRESS"')
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, 0), family=family, backlog=1)
    server.settimeout(WAIT_S)
    context = _context(daemon, True, peer)

    def accept() -> None:
        with server, contextlib.suppress(OSError):
            plain, _ = server.accept()
            plain.settimeout(WAIT_S)
            joined(daemon, _greet(context, plain, True), True)

    threading.Thread(target=accept, daemon=True).start()
    return {"address": address, "port": server.getsockname()[1]}


def connect(daemon: Daemon, progress: Any, peer: str, address: str, port: int, use: str = "data") -> None:
    """Connect to the target that listens there; raises OpError `direct` when it cannot be reached or is another."""
    joined = _use(use)
    context = _context(daemon, False, peer)
    try:
        plain = socket.create_connection((address, port), timeout=WAIT_S)
        joined(daemon, _greet(context, plain, False), False)
    except OSError as error:
        raise OpError("direct", f"the target does not answer on {address}:{port}: {error}") from error


def _greet(context: ssl.SSLContext, plain: socket.socket, on_target: bool) -> ssl.SSLSocket:
    """Return the connection to the one peer, when both have said so; raises OSError when either refuses the other.

    In TLS 1.3 a client has shaken hands before the server has looked at its certificate: so each says a byte.
    """
    tls = context.wrap_socket(plain, server_side=on_target)
    try:
        ends = str((tls.getpeercert() or {}).get("notAfter", ""))
        if not ends or ssl.cert_time_to_seconds(ends) < time.time():
            raise ssl.SSLError("the certificate of the other node has run out")
        tls.sendall(WELCOME)
        if tls.recv(len(WELCOME)) != WELCOME:
            raise ConnectionError("the other node has refused this one")
    except BaseException:
        tls.close()
        raise
    return tls


def _use(name: str) -> Callable[[Daemon, ssl.SSLSocket, bool], None]:
    uses = {"data": _join, "line": _speak, "probe": _look}
    if name not in uses:
        raise OpError("bad-argument", f"a connection is for data, for the line or for a probe, not for {name!r}")
    return uses[name]


def _speak(daemon: Daemon, tls: ssl.SSLSocket, on_target: bool) -> None:
    """Keep the line to the other helper for the rest of the run."""
    if daemon.end is None or daemon.done.is_set():
        tls.close()
    else:
        daemon.line = daemon.end.line = Line(tls, daemon.end.facts, "source" if on_target else "target")
        threading.Thread(target=daemon.line.run, args=(daemon.done,), daemon=True).start()


def _join(daemon: Daemon, tls: ssl.SSLSocket, receive: bool) -> None:
    """Let the connection stand for the data pipe: transfers read and write descriptors, the pump does the rest."""
    if daemon.bulk_ready.is_set():  # the controller has given up waiting for us
        tls.close()
        return
    daemon.bulk = _pumped(tls, receive)
    daemon.bulk_ready.set()


def _look(daemon: Daemon, tls: ssl.SSLSocket, receive: bool) -> None:
    """Let the connection stand for the one by which the link is looked at, which closes what it has."""
    read_fd, write_fd = _pumped(tls, receive)
    idle = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # the pump's own one is not to be closed under its hands
    daemon.probe, daemon.probe_over = (read_fd, idle) if receive else (idle, write_fd), threading.Event()
    daemon.probe_ready.set()


def _pumped(tls: ssl.SSLSocket, receive: bool) -> tuple[int, int]:
    """Both ends of a pipe to or from the other node."""
    tls.settimeout(None)
    read_fd, write_fd = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(write_fd, F_SETPIPE_SZ, BUFFER_BYTES)
    pump: Callable[[ssl.SSLSocket, int], None] = _receive if receive else _send
    threading.Thread(target=pump, args=(tls, write_fd if receive else read_fd), daemon=True).start()
    return read_fd, write_fd


def _send(tls: ssl.SSLSocket, read_fd: int) -> None:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with contextlib.suppress(OSError):
        while True:
            size = os.readv(read_fd, [buffer])
            if not size:
                break
            tls.sendall(buffer[:size])
    with contextlib.suppress(OSError):
        tls.close()
    os.close(read_fd)  # the writer's next piece fails instead of waiting


def _receive(tls: ssl.SSLSocket, write_fd: int) -> None:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with contextlib.suppress(OSError):
        while True:
            size = tls.recv_into(buffer)
            if not size:
                break
            piece = buffer[:size]
            while piece:
                piece = piece[os.write(write_fd, piece) :]
    with contextlib.suppress(OSError):
        tls.close()
    os.close(write_fd)  # the reader finds the end of the stream
