"""S2: a connection straight from node to node knows its peer by a certificate of this run, and no other."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import threading
from types import SimpleNamespace

import pytest

from reberth.node import direct

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def peers(tmp_path):
    """Three helpers with keys of their own: two of one run, and a stranger."""
    found = []
    for name in ("source", "target", "stranger"):
        place = tmp_path / name
        place.mkdir(mode=0o700)
        daemon = SimpleNamespace(dir=str(place))
        found.append((daemon, direct.identity(daemon, None)))
    return found


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """What comes of a connection: the server's words, or the name of the error of either side."""
    here, there = socket.socketpair()
    said = []

    def serve():
        try:
            with server.wrap_socket(here, server_side=True) as one:
                said.append(one.recv(8).decode())
        except OSError as error:
            said.append(type(error).__name__)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(there) as one:
            one.sendall(b"pages")
    except OSError as error:
        said.append(type(error).__name__)
    thread.join(10)
    return said[0]


def test_the_two_ends_of_a_run_know_each_other(peers):
    (source, its), (target, other), _ = peers
    assert shake(direct._context(target, True, its), direct._context(source, False, other)) == "pages"


@pytest.mark.parametrize(("server", "client"), [("target", "stranger"), ("stranger", "source"), ("target", "nobody")])
def test_a_stranger_is_refused_on_either_side(peers, server, client):
    (source, its), (target, other), (stranger, _) = peers
    serving = direct._context({"target": target, "stranger": stranger}[server], True, its)
    if client == "nobody":  # without a certificate
        asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    else:
        asking = direct._context({"source": source, "stranger": stranger}[client], False, other)
    assert shake(serving, asking) != "pages"


def test_the_key_is_for_its_owner_alone(peers):
    for daemon, certificate in peers:
        key = f"{daemon.dir}/direct.key"
        with open(key) as file:
            text = file.read()
        assert "PRIVATE KEY" in text and "PRIVATE" not in certificate
        assert stat.S_IMODE(os.stat(key).st_mode) == 0o600


def test_each_run_has_another_one(peers):
    assert len({certificate for _, certificate in peers}) == 3
