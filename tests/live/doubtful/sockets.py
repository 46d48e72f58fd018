"""States of sockets."""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import Any

from doubtful.base import state

SIOCGIFADDR = 0x8915
AF_VSOCK, IPPROTO_MPTCP, NETLINK_AUDIT, NETLINK_UEVENT = 40, 262, 9, 15


def connection() -> tuple[socket.socket, socket.socket]:
    """A listening socket, and a connection to it that nobody has accepted."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server, socket.create_connection(server.getsockname())


def netlink(protocol: int, groups: int) -> socket.socket:
    """A netlink socket that listens to these groups."""
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    one.bind((0, groups))
    return one


@state("sockets")
def vsock(place: str) -> Any:
    """Sockets to a hypervisor."""
    return socket.socket(AF_VSOCK, socket.SOCK_STREAM)


@state("sockets")
def mptcp(place: str) -> Any:
    """A server of Multipath TCP, as newer runtimes open by themselves."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


@state("tcp", "tcp-unaccepted")
def tcp_unaccepted(place: str) -> Any:
    """A connection that waits to be accepted."""
    return connection()


@state("tcp")
def tcp_closed_by_peer(place: str) -> Any:
    """A connection whose peer has gone."""
    server, client = connection()
    accepted, _ = server.accept()
    client.close()
    return server, accepted


@state("unix-outside")
def unix_outside(place: str) -> Any:
    """A connection to a service of the node."""
    one = socket.socket(socket.AF_UNIX)
    one.connect(f"{place}/outside.sock")
    return one


@state("unix-outside")
def unix_datagrams_outside(place: str) -> Any:
    """As syslog(3) does it."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.connect(f"{place}/outside-datagrams.sock")
    return one


@state("taken")
def port_taken(place: str) -> Any:
    """A port on which somebody listens on the target."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", 9321))
    server.listen()
    return server


@state()
def good_sockets(place: str) -> Any:
    """Each of these looks odd, and all of them move."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{place}/own.sock")
    listening.listen()
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(f"{place}/own.sock")
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0doubtful")
    abstract.listen()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    pair = socket.socketpair()
    with open(f"{place}/one", "rb") as file:
        socket.send_fds(pair[0], [b"x"], [file.fileno()])  # a descriptor on its way
    server, client = connection()
    return (
        *(listening, waiting, abstract, datagrams, bound, pair, server, client, server.accept()),
        socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        netlink(socket.NETLINK_ROUTE, 1),
        netlink(NETLINK_AUDIT, 0),
        netlink(NETLINK_UEVENT, 1),
    )


@state()
def unix_pair_half_closed(place: str) -> Any:
    """A pair of which one end is closed, with words left in it."""
    kept, other = socket.socketpair()
    other.sendall(b"left behind")
    other.close()
    return kept


@state("unix-unaccepted")
def unix_unaccepted(place: str) -> Any:
    """A connection of its own that waits to be accepted, with words in it."""
    server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    server.bind(place + "/waiting.sock")
    server.listen()
    client.connect(place + "/waiting.sock")
    client.sendall(b"words")
    return server, client


@state("local-address")
def own_address(place: str) -> Any:
    """A server on the node's own address, which the target does not have."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("eth")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("40s", names[0].encode()))
    return socket.create_server((socket.inet_ntoa(answer[20:24]), 0))
