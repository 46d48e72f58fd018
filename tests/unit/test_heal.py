"""Sockets in repair mode work again after the heal, the others are left as they are; on real sockets of a child."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from reberth.node.criu import tcp_repair

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="repair mode needs CAP_NET_ADMIN")

# Two connections to itself; one end of the first goes into repair mode, as CRIU leaves it. Then, on a word, it talks.
CHILD = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
pairs = []
for _ in range(2):
    client = socket.create_connection(listener.getsockname())
    pairs.append((client, listener.accept()[0]))
other = socket.socketpair()
if "repair" in sys.argv:
    pairs[0][0].setsockopt(socket.IPPROTO_TCP, 19, 1)
print("up", flush=True)
sys.stdin.readline()
for client, server in pairs:
    try:
        client.sendall(b"there")
        assert server.recv(9) == b"there"
        server.sendall(b"back")
        print("talks", client.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


def child(*words):
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    return process


def said(process):
    with process:
        return process.communicate("go\n", timeout=20)[0].splitlines()


def test_a_socket_in_repair_mode_talks_again():
    process = child("repair")
    assert tcp_repair.sockets([process.pid]) == 1
    assert tcp_repair.sockets([process.pid]) == 0
    assert said(process) == ["talks 1", "talks 0"]


def test_without_the_heal_it_does_not():
    """The twin: what the test above repairs is really broken."""
    assert said(child("repair")) != ["talks 1", "talks 0"]


def test_other_sockets_are_left_alone():
    process = child()
    assert tcp_repair.sockets([process.pid, process.pid, 2**22 + 1]) == 0
    assert said(process) == ["talks 0", "talks 0"]
