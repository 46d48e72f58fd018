"""LXD over its API alone: what the protocol makes of what two daemons say, and with whom the client speaks at all."""

from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import threading
from types import SimpleNamespace

import pytest

from reberth.run.decide import Step, Want, decide
from reberth_hooks import Node, Owner, UnreachableError, UntrustedError, UsageError

pytest.importorskip("pylxd", reason="pylxd is not installed")
from reberth_lxd.api.client import Daemon
from reberth_lxd.https import connect, events, facts

RUNS, RESTS, MISSING, UNCLEAR, SILENT = facts.RUNS, facts.RESTS, facts.MISSING, facts.UNCLEAR, facts.SILENT


class Run:
    """A run with its notes."""

    id = "r1"

    def __init__(self, **notes):
        self.notes = {"offered": True, **notes}

    def recall(self, key):
        return self.notes.get(key.replace(".", "_"))

    def note(self, key, value):
        self.notes[key.replace(".", "_")] = value


def looked(monkeypatch, source, target, **notes):
    """Facts of both ends for these states."""
    monkeypatch.setattr(facts, "_states", lambda move: (source, target))
    monkeypatch.setattr(facts.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(facts, "NOTICE_S", 0.0)
    monkeypatch.setattr(facts, "PATIENCE_S", 0.0)
    return facts.look(Run(**notes))


DONE = {"ended_source": {"status_code": 200}}
FAILED = {"ended_source": {"status_code": 400}}
TABLE = [
    (RESTS, RUNS, {}, "moved"),
    (MISSING, RUNS, {}, "moved"),
    (SILENT, RUNS, DONE, "moved"),
    (SILENT, RUNS, {}, "held"),
    (UNCLEAR, RUNS, {}, "held"),
    (RUNS, MISSING, {}, "rolled-back"),
    (RUNS, RESTS, {}, "rolled-back"),
    (RUNS, SILENT, {}, "rolled-back"),
    (RUNS, UNCLEAR, {}, "held"),
    (RUNS, RUNS, FAILED, Step.ABORT),
    (RUNS, RUNS, {}, Step.ABORT),
    (RUNS, RUNS, DONE, "held"),
    (RESTS, RESTS, {}, Step.RESUME),
    (RESTS, MISSING, DONE, Step.RESUME),
    (RESTS, SILENT, {}, "held"),
    (RESTS, UNCLEAR, {}, "held"),
    (MISSING, RESTS, {}, "ended"),
    (MISSING, MISSING, {}, "ended"),
    (SILENT, SILENT, {}, "held"),
    (SILENT, RESTS, {}, "held"),
]


@pytest.mark.parametrize(("source", "target", "notes", "end"), TABLE)
@pytest.mark.parametrize("want", list(Want))
def test_where_a_run_ends(monkeypatch, want, source, target, notes, end):
    decision = decide(*looked(monkeypatch, source, target, **notes), want)
    assert (decision.step or decision.outcome) == end, decision
    if decision.outcome == "moved":
        assert decision.owner is Owner.TARGET


def test_nothing_was_begun(monkeypatch):
    run = Run()
    run.notes.clear()
    assert decide(*facts.look(run), Want.BACK).outcome == "rolled-back"


def test_a_copy_that_is_gone_at_the_second_look_is_none(monkeypatch):
    said = iter([(RESTS, RUNS), (RESTS, RESTS)])
    monkeypatch.setattr(facts, "_states", lambda move: next(said))
    monkeypatch.setattr(facts.time, "sleep", lambda seconds: None)
    assert decide(*facts.look(Run()), Want.FORWARD).step is Step.RESUME


@pytest.mark.parametrize(
    ("description", "code", "kind", "name", "moves"),
    [
        ("Migrating instance", 103, "instances", "c1", True),
        ("Live-migrating container", 105, "containers", "c1?project=default", True),
        ("Creating container", 103, "containers", "c1", True),
        ("Migrating instance", 103, "instances", "c2", False),
        ("Migrating instance", 400, "instances", "c1", False),
        ("Executing command", 103, "instances", "c1", False),
    ],
)
def test_operations_that_move_it(description, code, kind, name, moves):
    said = {"description": description, "status_code": code, "resources": {kind: [f"/1.0/{kind}/{name}"]}}
    assert facts._moves(said, "c1") is moves
    assert not facts._moves({**said, "resources": None}, "c1")


# With whom the client speaks


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as LXD's REST API does, and tells events."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/1.0/events"):
            text = json.dumps({"type": "logging", "metadata": {"message": "CRIU pages", "context": {"pages": "7"}}})
            frame = bytes([0x81, 126]) + len(text).to_bytes(2, "big") + text.encode()
            self.wfile.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n" + bytes([0x89, 2]) + b"hi" + frame)
            self.wfile.flush()
            self.server.pong = self.rfile.read(8)
            return
        said = {
            "auth": self.server.auth,
            "api_extensions": self.server.extensions,
            "environment": {"server": "lxd", "server_version": "5.0.2"},
        }
        data = json.dumps({"type": "sync", "metadata": said}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Quiet."""


def certificate(folder, name):
    words = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes", "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", *curve, "-subj", f"/CN={name}", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pki")
    for name in ("server", "client", "other"):
        certificate(path, name)
    return path


@pytest.fixture
def daemon(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.auth, server.pong, server.extensions = [], "trusted", b"", []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def node(server, folder, **words):
    table = {"url": f"https://127.0.0.1:{server.server_address[1]}", "identity": str(folder), **words}
    return Node("n1", connector="lxd", backends=("lxd",), options={"lxd": table})


def test_the_pinned_daemon_is_spoken_with(daemon, folder):
    found = Daemon(node(daemon, folder, certificate=str(folder / "server.crt")), None)
    assert found.environment["server_version"] == "5.0.2" and daemon.asked == ["/1.0"]


@pytest.mark.parametrize("pinned", ["other.crt", "none.crt", ""])
def test_another_daemon_is_asked_nothing(daemon, folder, pinned):
    """Neither one with another certificate, nor, where none is pinned, one that no authority vouches for."""
    with pytest.raises(UntrustedError):
        Daemon(node(daemon, folder, certificate=str(folder / pinned) if pinned else ""), None)
    assert daemon.asked == []


def test_a_client_that_the_daemon_does_not_trust(daemon, folder):
    daemon.auth = "untrusted"
    with pytest.raises(UntrustedError, match="does not trust") as error:
        Daemon(node(daemon, folder, certificate=str(folder / "server.crt")), None)
    assert f"lxc config trust add {folder}/client.crt" in error.value.hint


def test_a_client_without_a_certificate(daemon, folder, tmp_path):
    with pytest.raises(UntrustedError, match="no certificate of its own"):
        Daemon(node(daemon, tmp_path, certificate=str(folder / "server.crt")), None)


def test_the_client_of_incus_is_named_by_its_folder(daemon, folder, tmp_path):
    """Before the daemon was asked; afterwards its API tells."""
    (tmp_path / "incus").mkdir()
    pinned = {"identity": str(tmp_path / "incus"), "certificate": str(folder / "server.crt")}
    with pytest.raises(UntrustedError, match="no certificate of its own") as error:
        Daemon(node(daemon, folder, **pinned), None)
    assert error.value.hint.startswith("incus remote add makes it")
    assert connect.reberth_connect(node(daemon, folder, **pinned)).hint.startswith("try: incus info n1:")
    daemon.auth, daemon.extensions = "untrusted", ["restrict_dev_incus"]
    with pytest.raises(UntrustedError) as error:
        Daemon(node(daemon, folder, certificate=str(folder / "server.crt")), None)
    assert f"incus config trust add-certificate {folder}/client.crt" in error.value.hint


def test_nobody_listens(folder):
    server = SimpleNamespace(server_address=("127.0.0.1", 1))
    with pytest.raises(UnreachableError, match="does not answer"):
        Daemon(node(server, folder, certificate=str(folder / "server.crt")), None)


@pytest.mark.parametrize("url", ["", "http://192.0.2.1", "https://", "unix://", "-oProxy"])
def test_an_address_that_is_none(url):
    with pytest.raises(UsageError, match="no daemon's address"):
        connect.url_of(Node("n1", connector="lxd", options={"lxd": {"url": url}}))


def test_events_come_from_the_pinned_daemon_alone(daemon, folder):
    heard = events.Events(node(daemon, folder, certificate=str(folder / "server.crt")))
    while not heard.said(events.PAGES):
        assert not heard.trouble, heard.trouble
        threading.Event().wait(0.01)
    assert heard.said(events.PAGES)[0][1] == {"pages": "7"}
    heard.close()
    daemon.asked.clear()
    strange = events.Events(node(daemon, folder, certificate=str(folder / "other.crt")))
    assert "pinned" in strange.trouble and daemon.asked == []
