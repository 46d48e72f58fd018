"""The plugin against a daemon that is only played: what it says of versions that nobody here has."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from types import SimpleNamespace

import pytest

from reberth.node import unixhttp
from reberth.node.errors import OpError
from reberth_hooks import CommandError, HelperError, Node

pytest.importorskip("pylxd", reason="pylxd is not installed")
from reberth_lxd.api import client, rendezvous
from reberth_lxd.api.client import Daemon, MissingError
from reberth_lxd.held import phases, survey


class Played(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A daemon's socket that answers GET /1.0 with an environment."""

    daemon_threads = True
    said: dict = {}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as LXD's REST API does."""

    def do_GET(self):
        found = self.server.said if self.path == "/1.0" else None
        body = {"type": "sync", "metadata": found} if found else {"type": "error", "error": "not found"}
        data = json.dumps(body).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Quiet."""

    def address_string(self):
        """A unix socket has no address."""
        return "unix"


class Shell:
    """A node whose helper makes real requests to the played daemon and has no other tools."""

    def __init__(self, place, criu=True, snap=False):
        self.place, self.criu, self.snap = str(place), criu, snap

    def begin(self, op, **args):
        return SimpleNamespace(result=lambda limit_s: self.call(op, **args))

    def call(self, op, **args):
        if op == "stats" and args["paths"][0] == "/etc":
            return [{"dev": 1, "ino": 7}, {"dev": 1, "ino": 8 if self.snap else 7}]
        if op == "stats":
            there = [path == self.place or (self.criu and path.endswith("/criu")) for path in args["paths"]]
            return [{"mode": 0} if found else None for found in there]
        if op == "unix_request":
            try:
                return unixhttp.request(**args)
            except OpError as error:
                raise HelperError(error.message, kind=error.kind) from error
        if op == "read":
            raise HelperError("gone", kind="missing")
        raise AssertionError(op)

    def run(self, argv, **_):
        return type("Outcome", (), {"code": 1, "out": "", "err": ""})()


EXTENSIONS = {
    "lxd": ["instances", "restrict_devlxd", "migration_pre_copy"],
    "incus": ["instances", "restrict_dev_incus", "migration_pre_copy"],
    "old": ["restrict_devlxd", "migration_pre_copy"],
}


@pytest.fixture
def daemon(tmp_path):
    place = tmp_path / "unix.socket"
    with Played(str(place), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def say(version="5.0.2", auth="trusted", kind="lxd"):
            environment = {"server": kind, "server_version": version, "server_pid": 1, "addresses": ["h:8443"]}
            server.said = {"auth": auth, "api_extensions": EXTENSIONS.get(kind, []), "environment": environment}
            return Node("n1", options={"lxd": {"socket": str(place)}}), place

        yield say
        server.shutdown()


def test_emulated_lxd_6_6_is_refused_with_the_reason(daemon):
    node, place = daemon("6.6")
    found = survey.reberth_probe(node, Shell(place))
    reason, remedy = found["not_live"]
    assert "near-live alone" in found["reason"] and "removed in 6.6" in reason
    assert "Incus" in remedy and "--mode near-live" in remedy


def test_emulated_daemon_without_criu_is_refused(daemon):
    node, place = daemon()
    found = survey.reberth_probe(node, Shell(place, criu=False))
    assert "no criu" in found["not_live"][0] and "--mode near-live" in found["not_live"][1]


def test_emulated_snap_is_refused_since_nothing_would_hold_its_criu(daemon):
    node, place = daemon("5.21.2")
    found = survey.reberth_probe(node, Shell(place, snap=True))
    assert "cannot be held" in found["not_live"][0] and "--mode near-live" in found["not_live"][1]


@pytest.mark.parametrize("runs", [True, False])
def test_emulated_remains_are_removed_only_while_the_source_runs(monkeypatch, runs):
    """Were the daemons' criu not held after all, the copy could be the only one that there is."""

    class Side:
        node, gone = Node("n"), []

        def __init__(self, status):
            self.status = status

        def get(self, *path):
            return None if self.gone and self.status == 0 else {"status_code": self.status, "processes": 2}

        def spoken(self, hint):
            return hint.replace("lxc", "incus")

        def put(self, *path, json):
            self.gone.append("stopped")

        def delete(self, *path):
            self.gone.append("deleted")
            self.status = 0

    source, target = Side(phases.RUNNING if runs else phases.STOPPED), Side(phases.RUNNING)
    target.gone = []
    monkeypatch.setattr(phases, "daemon", lambda move, side: (source, target)[side])
    workload = type("W", (), {"name": "c1"})
    move = type("M", (), {"plan": type("P", (), {"workload": workload}), "recall": lambda self, key: None})()
    if runs:
        phases._remove_remains(move, source)
    else:
        with pytest.raises(CommandError, match="nothing of it is removed") as error:
            phases._remove_remains(move, source)
        assert error.value.hint.startswith("incus info")
    assert target.gone == (["stopped", "deleted"] if runs else [])


@pytest.mark.parametrize(("kind", "version"), [("lxd", "5.21.2"), ("incus", "6.0.4")])
def test_emulated_daemon_that_can_is_usable(daemon, kind, version):
    node, place = daemon(version, kind=kind)
    found = survey.reberth_probe(node, Shell(place))
    assert found["usable"] and (found["server"], found["version"], found["addresses"]) == (kind, version, ["h:8443"])


@pytest.mark.parametrize(("kind", "reason"), [("old", "no instances"), ("other", "neither LXD nor Incus")])
def test_emulated_daemon_of_another_api_is_refused(daemon, kind, reason):
    """What a daemon calls itself does not count, what its API can does."""
    node, place = daemon("3.0", kind=kind)
    found = survey.reberth_probe(node, Shell(place))
    assert not found["usable"] and reason in found["reason"] and found["remedy"]


def test_emulated_daemon_that_does_not_trust_us_is_not_used(daemon):
    node, place = daemon(auth="untrusted")
    found = survey.reberth_probe(node, Shell(place))
    assert not found["usable"] and "does not trust" in found["reason"]


def test_emulated_what_the_daemon_has_not_is_no_error_of_its_own(daemon):
    node, place = daemon()
    found = Daemon(node, Shell(place))
    assert found.get("instances", "c1") is None
    with pytest.raises(MissingError, match="node n1 has no instances/c1"):
        found._ask("get", ("instances", "c1"))


def test_a_socket_that_nobody_serves(tmp_path):
    place = tmp_path / "unix.socket"
    place.touch()
    found = survey.reberth_probe(Node("n1", options={"lxd": {"socket": str(place)}}), Shell(place))
    assert not found["usable"] and "does not answer" in found["reason"]
    assert survey.reberth_probe(Node("n1"), Shell(tmp_path / "none"))["usable"] is False
    assert survey.reberth_list(Node("n1"), Shell(tmp_path / "none")) == []


class TwoSockets(Shell):
    """A node with two sockets, the first of which nobody serves any more."""

    def __init__(self, left, place):
        super().__init__(place)
        self.left = str(left)

    def call(self, op, **args):
        if op == "stats" and args["paths"][0] == self.left:
            return [{"mode": 0}, {"mode": 0}]
        return super().call(op, **args)


def test_a_daemon_that_left_its_socket_behind_does_not_hide_the_other(daemon, tmp_path, monkeypatch):
    left = tmp_path / "left.socket"
    left.touch()
    _, place = daemon(kind="incus")
    monkeypatch.setattr(client, "SOCKETS", (str(left), str(place)))
    assert client.socket_of(Node("n1"), TwoSockets(left, place)) == str(place)
    place.unlink()  # and when none of them answers, the first one is named
    assert client.socket_of(Node("n1"), TwoSockets(left, place)) == str(left)


def test_an_operation_is_over_when_its_daemon_is(tmp_path):
    """Refused or missing is over; only a daemon that answers late may still be at it."""
    assert unixhttp.operation_ended(str(tmp_path / "none"), "/1.0/operations/x") is True


@pytest.mark.parametrize("words", [("TRACE", "/1.0"), ("GET", "1.0"), ("GET", "/1.0\r\nX: y")])
def test_what_is_no_request_is_not_sent(words):
    with pytest.raises(OpError, match="no request"):
        unixhttp.request("/nowhere", *words)


def test_emulated_a_copy_does_not_start_with_its_daemon_before_it_is_the_only_one(monkeypatch):
    """LXD 5.0.2 starts what it took for running when it starts again, be it a copy that never ran."""
    asked, looks = [], [False, True, True]

    class Side:
        node = Node("n")

        def __init__(self, word):
            self.word = word

        def get(self, *path):
            late = (
                self.word == "source" and asked and looks and looks.pop()
            )  # its daemon notices the end a moment later
            return {"status_code": phases.RUNNING if late or self.word == "target" else phases.STOPPED, "processes": 2}

        def patch(self, *path, json):
            asked.append((self.word, json["config"]))

        def delete(self, *path):
            asked.append((self.word, "deleted"))

    ends = Side("source"), Side("target")
    known = {"keys": {"boot.autostart": "", "migration.incremental.memory": "true"}}
    plan = SimpleNamespace(workload=SimpleNamespace(name="c1"), details={"keep_source": False})
    move = SimpleNamespace(plan=plan, recall=known.get, id="r1")
    monkeypatch.setattr(phases, "daemon", lambda move, side: ends[side])
    monkeypatch.setattr(phases, "_settled", lambda *_: {})
    monkeypatch.setattr(phases, "TWICE_S", 0.0)
    monkeypatch.setattr(phases, "ASK_S", 0.0)
    assert rendezvous.on_target(move) == {"boot.autostart": "false", "migration.incremental.memory": "true"}
    assert phases.reberth_commit(move)
    assert asked == [("target", {"boot.autostart": ""}), ("source", "deleted")]
