"""S2: a connection straight from node to node knows its peer by a certificate of this run, and no other."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from types import SimpleNamespace

import pytest

from reberth.node.errors import OpError
from reberth.node.net import tls
from reberth.node.survey import measure

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture
def peers(tmp_path):
    """Three helpers with keys of their own: two of one run, and a stranger."""
    found = []
    for name in ("source", "target", "stranger"):
        place = tmp_path / name
        place.mkdir(mode=0o700)
        daemon = SimpleNamespace(dir=str(place))
        found.append((daemon, tls.identity(daemon, None)))
    return found


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """What comes of a connection: the server's words, or the name of the error of either side."""
    here, there = socket.socketpair()
    said = []

    def serve():
        try:
            with tls._greet(server, here, True) as one:
                said.append(one.recv(8).decode())
        except OSError as error:
            said.append(type(error).__name__)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        known = client.verify_mode is ssl.CERT_REQUIRED  # else it is nobody, and greets nobody
        with tls._greet(client, there, False) if known else client.wrap_socket(there) as one:
            one.sendall(b"pages")
    except OSError as error:
        said.append(type(error).__name__)
    thread.join(10)
    return said[0]


def test_the_two_ends_of_a_run_know_each_other(peers):
    (source, its), (target, other), _ = peers
    assert shake(tls._context(target, True, its), tls._context(source, False, other)) == "pages"


@pytest.mark.parametrize(("server", "client"), [("target", "stranger"), ("stranger", "source"), ("target", "nobody")])
def test_a_stranger_is_refused_on_either_side(peers, server, client):
    (source, its), (target, other), (stranger, _) = peers
    serving = tls._context({"target": target, "stranger": stranger}[server], True, its)
    if client == "nobody":  # without a certificate
        asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        asking.check_hostname, asking.verify_mode = False, ssl.CERT_NONE
    else:
        asking = tls._context({"source": source, "stranger": stranger}[client], False, other)
    assert shake(serving, asking) != "pages"


def test_one_of_another_run_is_refused(peers, tmp_path):
    """The same node in a migration before: its old certificate is a stranger's."""
    (source, its), (target, other), _ = peers
    (tmp_path / "before").mkdir(mode=0o700)
    before = SimpleNamespace(dir=str(tmp_path / "before"))
    tls.identity(before, None)
    assert shake(tls._context(target, True, its), tls._context(before, False, other)) != "pages"
    assert shake(tls._context(before, True, its), tls._context(source, False, other)) != "pages"


@pytest.mark.parametrize("side", ["server", "client"])
def test_an_expired_one_is_refused_on_either_side(peers, side, tmp_path):
    (source, its), (target, other), _ = peers
    old = {"server": target, "client": source}[side]
    expired = expire(old.dir, tmp_path)
    if side == "server":
        other = expired
    else:
        its = expired
    assert shake(tls._context(target, True, its), tls._context(source, False, other)) != "pages"


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_clock_that_is_behind_takes_one_that_was_just_made(peers, side, tmp_path):
    """It begins in this node's future: a second is enough, and no two clocks are the same."""
    (source, its), (target, other), _ = peers
    early = expire({"server": target, "client": source}[side].dir, tmp_path, "20980101000000Z", "20990101000000Z")
    its, other = (its, early) if side == "server" else (early, other)
    assert shake(tls._context(target, True, its), tls._context(source, False, other)) == "pages"


def test_who_is_refused_knows_it_at_once(peers):
    """In TLS 1.3 a client has shaken hands before the server has looked at its certificate."""
    (source, _), (target, other), (_, strange) = peers
    target.bulk_ready = threading.Event()
    place = tls.listen(target, None, strange, "127.0.0.1", "data")
    with pytest.raises(OpError, match="does not answer") as caught:
        tls.connect(source, None, other, **place)
    assert caught.value.kind == "direct" and not target.bulk_ready.is_set()


def expire(place: str, tmp_path, start="20200101000000Z", end="20200103000000Z") -> str:
    """Make the certificate in this directory one of the past, of the same key; answers it."""
    (tmp_path / "index.txt").touch()
    (tmp_path / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=one\n[one]\ndatabase={tmp_path}/index.txt\nnew_certs_dir={tmp_path}\nrand_serial=yes\n"
        "default_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n"
    )
    key, request = f"{place}/direct.key", str(tmp_path / "request")
    certificate = f"{place}/direct.pem"
    make = ["openssl", "req", "-new", "-key", key, "-subj", "/CN=reberth", "-out", request]
    subprocess.run(make, check=True, capture_output=True)
    sign = ["openssl", "ca", "-batch", "-selfsign", "-config", str(tmp_path / "ca.cnf"), "-keyfile", key]
    sign += ["-in", request, "-startdate", start, "-enddate", end, "-notext"]
    subprocess.run([*sign, "-out", certificate], check=True, capture_output=True)
    with open(certificate, encoding="ascii") as file:
        return file.read()


def test_the_twin_of_an_expired_one_is_taken(peers, tmp_path):
    """The same way of signing with dates of today: so it is the date that is refused above."""
    (source, its), (target, _), _ = peers
    other = expire(target.dir, tmp_path, end="20990101000000Z")
    assert shake(tls._context(target, True, its), tls._context(source, False, other)) == "pages"


def test_the_key_is_for_its_owner_alone(peers):
    for daemon, certificate in peers:
        key = f"{daemon.dir}/direct.key"
        with open(key) as file:
            text = file.read()
        assert "PRIVATE KEY" in text and "PRIVATE" not in certificate
        assert stat.S_IMODE(os.stat(key).st_mode) == 0o600


def test_each_run_has_another_one(peers):
    assert len({certificate for _, certificate in peers}) == 3


def test_a_link_is_looked_at_by_such_a_connection(peers):
    """What one sends the other takes, to its end; and nothing of it is taken for the data of a move."""
    (source, its), (target, other), _ = peers
    for end in (source, target):
        end.bulk_ready, end.probe_ready, end.probe = threading.Event(), threading.Event(), None
    place = tls.listen(target, None, its, "127.0.0.1", "probe")
    tls.connect(source, None, other, **place, use="probe")
    assert target.probe_ready.wait(10)
    found = []
    thread = threading.Thread(target=lambda: found.append(measure.link_recv(target, None)))
    thread.start()
    sent = measure.link_send(source, None, 10.0, 4 << 20)
    thread.join(10)
    assert sent == 4 << 20 and 0 < found[0]["bytes"] <= sent
    assert not source.bulk_ready.is_set() and not target.bulk_ready.is_set()
