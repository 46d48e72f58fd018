"""Pipes and unix sockets with bytes, messages and descriptors in flight."""

from __future__ import annotations

import os
import socket
from typing import Callable

from workloads.base import Checks, content
from workloads.ipc_items import Item

QUEUED = [b"first message", b"2", b"the third, a little longer than the others"]


class Pipes(Item):
    """Pipes that hold 1 byte, a page, an odd number and all that a pipe takes."""

    name = "pipe"

    def setup(self) -> None:
        """Fill them."""
        self.pipes = []
        for size_bytes in (1, 4096, 12345, 65536):
            read_end, write_end = os.pipe()
            data = content(self.seed, f"pipe {size_bytes}", size_bytes)
            os.write(write_end, data)
            os.set_blocking(read_end, False)
            self.pipes.append((read_end, write_end, data))

    def check(self, checks: Checks) -> None:
        """Drain and fill again."""
        for read_end, write_end, data in self.pipes:
            checks.equal(f"pipe of {len(data)} bytes", _drain(read_end), data)
            os.write(write_end, data)

    def spoil(self) -> None:
        """Swallow one byte."""
        os.read(self.pipes[2][0], 1)


class PacketPipe(Item):
    """A pipe in packet mode (O_DIRECT): the borders of the writes must stay. criu 4.2.1 refuses it at the dump."""

    name = "packet-pipe"
    usual = False

    def setup(self) -> None:
        """Write three packets."""
        self.ends = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        self._fill()

    def check(self, checks: Checks) -> None:
        """Read packet by packet."""
        checks.equal("packets in the pipe", _messages(lambda: os.read(self.ends[0], 4096)), QUEUED)
        self._fill()

    def spoil(self) -> None:
        """Join two packets."""
        found = _messages(lambda: os.read(self.ends[0], 4096))
        os.write(self.ends[1], found[0] + found[1])
        os.write(self.ends[1], found[2])

    def _fill(self) -> None:
        for message in QUEUED:
            os.write(self.ends[1], message)


class SocketPair(Item):
    """A pair of unix stream sockets with bytes waiting in both directions."""

    name = "socketpair"

    def setup(self) -> None:
        """Fill both queues."""
        self.ends = socket.socketpair()
        self.data = [content(self.seed, f"socketpair {end}", 20000 + end) for end in (0, 1)]
        for end in (0, 1):
            self.ends[end].setblocking(False)
            self.ends[1 - end].sendall(self.data[end])

    def check(self, checks: Checks) -> None:
        """Drain and fill again."""
        for end in (0, 1):
            found = _drain(self.ends[end].fileno())
            checks.equal(f"bytes queued at end {end} of the socket pair", found, self.data[end])
            self.ends[1 - end].sendall(self.data[end])

    def spoil(self) -> None:
        """Swallow one byte."""
        self.ends[1].recv(1)


class Messages(Item):
    """A pair of datagram sockets with whole messages queued."""

    name = "datagrams"
    type = socket.SOCK_DGRAM

    def setup(self) -> None:
        """Queue three messages."""
        self.ends = socket.socketpair(socket.AF_UNIX, self.type | socket.SOCK_NONBLOCK)
        self._fill()

    def check(self, checks: Checks) -> None:
        """Read message by message."""
        checks.equal(self.name, _messages(lambda: self.ends[1].recv(4096)), QUEUED)
        self._fill()

    def spoil(self) -> None:
        """Swallow one message."""
        self.ends[1].recv(4096)

    def _fill(self) -> None:
        for message in QUEUED:
            self.ends[0].send(message)


class SequencedMessages(Messages):
    """The same with sequenced packets."""

    name = "seqpacket"
    type = socket.SOCK_SEQPACKET


class NamedSocket(Item):
    """A unix socket with a name in the file system: a listener, one connection, bytes queued in it."""

    name = "named-socket"

    def setup(self) -> None:
        """Listen, connect, send."""
        self.address = self._address()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.address)
        self.listener.listen(4)
        self.client = socket.socket(socket.AF_UNIX)
        self.client.connect(self.address)
        self.server = self.listener.accept()[0]
        self.data = content(self.seed, "named socket", 5000)
        self.server.setblocking(False)
        self.client.sendall(self.data)

    def check(self, checks: Checks) -> None:
        """Drain and fill again; then connect anew by name."""
        checks.equal("bytes queued in the named socket", _drain(self.server.fileno()), self.data)
        self.client.sendall(self.data)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(2)
            probe.connect(self.address)
            self.listener.accept()[0].close()

    def spoil(self) -> None:
        """Close the listener."""
        self.listener.close()

    def _address(self) -> str:
        path = os.path.join(self.directory, self.name)
        if os.path.lexists(path):
            os.unlink(path)
        return path


class AbstractSocket(NamedSocket):
    """The same with a name in the abstract space."""

    name = "abstract-socket"

    def _address(self) -> str:
        return f"\0reberth-workload-{os.getpid()}"


class PeerName(NamedSocket):
    """A named socket whose client still knows its peer's name: lost by criu 4.2.1, which restores a nameless pair."""

    name = "peer-name"
    usual = False

    def check(self, checks: Checks) -> None:
        """Ask for the name."""
        checks.equal("name of the peer", self.client.getpeername(), self.address)

    def spoil(self) -> None:
        """Replace the client by one end of a nameless pair."""
        self.client = socket.socketpair()[0]


class DescriptorInFlight(Item):
    """A pipe's end that was sent through a socket and not received yet (SCM_RIGHTS)."""

    name = "descriptor-in-flight"

    def setup(self) -> None:
        """Send it."""
        self.ends = socket.socketpair()
        self.ends[1].settimeout(2)
        self.data = content(self.seed, "descriptor in flight", 3000)
        read_end, self.write_end = os.pipe()
        os.write(self.write_end, self.data)
        self._send(read_end)

    def check(self, checks: Checks) -> None:
        """Receive it, read from it, send it again."""
        _, descriptors, _, _ = _receive_descriptors(self.ends[1])
        if checks.equal("descriptors in flight", len(descriptors), 1):
            os.set_blocking(descriptors[0], False)
            checks.equal("bytes behind the descriptor in flight", _drain(descriptors[0]), self.data)
            os.write(self.write_end, self.data)
            self._send(descriptors[0])

    def spoil(self) -> None:
        """Lose the descriptor, keep the message."""
        _, descriptors, _, _ = _receive_descriptors(self.ends[1])
        os.close(descriptors[0])
        self.ends[0].send(b"d")

    def _send(self, number: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, number.to_bytes(4, "little"))
        self.ends[0].sendmsg([b"d"], [rights])
        os.close(number)


def _receive_descriptors(end: socket.socket) -> tuple[bytes, list[int], int, object]:
    message, ancillary, flags, address = end.recvmsg(16, socket.CMSG_SPACE(4))
    found = [int.from_bytes(data[:4], "little") for _, kind, data in ancillary if kind == socket.SCM_RIGHTS]
    return message, found, flags, address


def _drain(number: int) -> bytes:
    """All bytes that can be read now."""
    data = b""
    while True:
        try:
            more = os.read(number, 1 << 17)
        except BlockingIOError:
            return data
        if not more:
            return data + b"<end of file>"
        data += more


def _messages(receive: Callable[[], bytes]) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < 100:
        try:
            found.append(receive())
        except BlockingIOError:
            break
    return found


QUEUES: tuple[type[Item], ...] = (
    Pipes,
    PacketPipe,
    SocketPair,
    Messages,
    SequencedMessages,
    NamedSocket,
    AbstractSocket,
    PeerName,
    DescriptorInFlight,
)
