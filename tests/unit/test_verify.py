"""`--verify`: the words of a probe, and when the source is given up, kept, or runs again."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from types import SimpleNamespace

import pytest
from theatre import PLAN, Theatre, own_state  # noqa: F401

from reberth.node.errors import OpError
from reberth.node.runs.target import Target
from reberth.node.survey import health
from reberth.report.report import Report
from reberth.run import verify
from reberth.run.decide import Want
from reberth.run.engine import Engine
from reberth.run.verify import parse_probe
from reberth_hooks import UsageError

BAD = {"good": False, "problem": "answered 503"}


@pytest.fixture
def theatre(make_plugin):
    return lambda **options: Theatre(make_plugin, **options)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("tcp:8080", ("tcp", ["127.0.0.1", "8080"])),
        ("tcp:10.0.0.2:80", ("tcp", ["10.0.0.2", "80"])),
        ("tcp:[::1]:80", ("tcp", ["::1", "80"])),
        ("http://127.0.0.1:8080/health?full=1", ("http", ["127.0.0.1", "8080", "/health?full=1"])),
        ("http://web", ("http", ["web", "80", "/"])),
        ("exec:redis-cli -p 6379 'PING me'", ("exec", ["redis-cli", "-p", "6379", "PING me"])),
        ("processes", ("processes", [])),
    ],
)
def test_words_of_a_probe(text, want):
    assert parse_probe(text) == want


@pytest.mark.parametrize(
    "text",
    [
        *("", "exec:", "exec:'", "tcp:", "tcp:0", "tcp:65536", "tcp:-1", "tcp:http", "https://x/", "http:///x"),
        *("ping:x", "processes:3", "http://x:99999/", "exec", "tcp:٣"),
    ],
)
def test_what_is_no_probe(text):
    with pytest.raises(UsageError) as caught:
        parse_probe(text)
    assert "tcp:PORT" in caught.value.hint


def test_a_good_copy_is_verified_before_the_source_is_given_up(theatre):
    stage = theatre(verify=("tcp:80", "processes"))
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("moved", 0)
    ops = stage.ops()
    assert ops.count("b verify") == 2
    assert ops.index("a note") < ops.index("a vote")  # the source must not follow the target's word alone
    assert ops.index("b decide") < ops.index("b verify") < ops.index("a release")


def test_without_probes_nothing_is_asked(theatre):
    stage = theatre()
    stage.run()
    assert "b verify" not in stage.ops()


def test_a_bad_copy_is_kept_beside_a_frozen_source(theatre):
    stage = theatre(verify=("http://x/",))
    stage.shells[1].probed = [BAD]
    report = stage.run()
    assert (report.outcome, report.owner, report.exit_code) == ("moved", "target", 41)
    assert "answered 503" in report.error["message"] and "--rollback" in report.error["hint"]
    assert stage.source.tasks and stage.source.frozen and not stage.source.has("released")
    assert stage.target.copy == "running"


def test_a_bad_copy_is_discarded_where_that_was_asked_for(theatre):
    stage = theatre(verify=("http://x/",), on_failure="rollback")
    stage.shells[1].probed = [BAD]
    report = stage.run()
    assert (report.outcome, report.owner, report.exit_code) == ("rolled-back", "source", 20)
    assert stage.source.running and stage.target.copy == "none"


@pytest.mark.parametrize(
    ("want", "rollback", "probed", "end"),
    [
        (Want.FORWARD, False, [BAD], ("moved", 0)),  # the operator accepts it unseen
        (Want.BACK, False, [], ("moved", 0)),  # plain recover probes again: it is well now
        (Want.BACK, False, [BAD], ("moved", 41)),
        (Want.BACK, True, [], ("rolled-back", 0)),
    ],
)
def test_recover_decides_about_a_bad_copy(theatre, want, rollback, probed, end):
    stage = theatre(verify=("http://x/",))
    stage.shells[1].probed = [BAD]
    stage.run()
    stage.session.on_word = rollback
    for side in (0, 1):
        stage.session.ends[side] = stage.reconnect("ab"[side])
    stage.session.ends[1].probed = list(probed)
    stage.session.forget()
    stage.session.forward = want is Want.FORWARD
    report = Engine(stage.stage, stage.session, Report.of_plan(stage.plan)).resume(want)
    assert (report.outcome, report.exit_code) == end


def test_what_a_run_leaves_behind_is_named(theatre):
    stage = theatre()
    stage.shells[1].left = ["/dev/shm/reberth-x"]
    assert "left behind on b: /dev/shm/reberth-x" in stage.run().warnings


# The helper's side


@pytest.fixture
def copy(monkeypatch):
    """A target whose copy is this very process."""
    records = {"copy-held": {"init": os.getpid()}}
    journal = SimpleNamespace(last=records.get, has=lambda event: event == "running")
    end = object.__new__(Target)
    end.run, end.cgroup = SimpleNamespace(journal=journal), "/sys/fs/cgroup/x"
    monkeypatch.setattr(health.loopback, "inside", lambda pid, action: action())
    return SimpleNamespace(end=end)


def look(daemon, kind, *words):
    return health.verify(daemon, None, kind, list(words), limit_s=0)


class Page(http.server.BaseHTTPRequestHandler):
    """Says 200 for / and 503 for the rest."""

    def do_GET(self):
        self.send_response(200 if self.path == "/" else 503)
        self.end_headers()

    def log_message(self, *words):
        pass


def test_probes_over_the_network(copy):
    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_address[1])
        assert look(copy, "tcp", "127.0.0.1", port) == {"good": True, "problem": ""}
        assert look(copy, "http", "127.0.0.1", port, "/") == {"good": True, "problem": ""}
        assert look(copy, "http", "127.0.0.1", port, "/x") == {"good": False, "problem": "answered 503"}
        server.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = str(gone.getsockname()[1])
    assert not look(copy, "tcp", "127.0.0.1", port)["good"]


def test_a_command_is_run_inside_the_copy_and_no_shell_sees_it(copy, monkeypatch):
    ran = []
    answers = [{"code": 0, "out": "", "err": ""}, {"code": 3, "out": "", "err": "no\nwhy\n"}]
    monkeypatch.setattr(health.spawn, "run", lambda argv, **_: ran.append(argv) or answers.pop(0))
    assert look(copy, "exec", "check", "$(reboot)")["good"]
    assert ran[0][0] == "nsenter" and ran[0][-3:] == ["--", "check", "$(reboot)"] and str(os.getpid()) in ran[0]
    assert look(copy, "exec", "check") == {"good": False, "problem": "check ended with 3: why"}


def test_processes_are_counted(copy, monkeypatch):
    monkeypatch.setattr(health.cgroup, "pids", lambda group: [os.getpid(), 1 << 29])
    assert look(copy, "processes", "1")["good"]
    assert look(copy, "processes", "2")["problem"] == "1 processes run, 2 are expected"


def test_only_a_running_copy_can_be_verified(copy):
    with pytest.raises(OpError):
        health.verify(SimpleNamespace(end=None), None, "tcp", ["x", "1"])
    with pytest.raises(OpError):
        look(copy, "shell", "x")
    copy.end.run.journal.has = lambda event: False
    with pytest.raises(OpError):
        look(copy, "tcp", "x", "1")


@pytest.mark.parametrize(
    ("first", "there", "last", "word"),
    [
        ("good", "good", "good", "good"),
        ("ended", "good", "ended", "good"),
        ("good", "ended", "good", "open"),  # the target's operation goes on: it would undo the copy in a moment
        ("good", "ended", "ended", "good"),
        ("good", "ended", "undone", "undone"),
        ("undone", "good", "good", "undone"),
        ("open", "good", "good", "open"),
        ("good", "open", "good", "open"),
    ],
)
def test_what_both_daemons_say_in_one_word(first, there, last, word):
    def end(*states):
        left = list(states)
        return SimpleNamespace(call=lambda *_, **__: {"state": left.pop(0), "problem": "x"})

    session = SimpleNamespace(plan=PLAN, source=end(there), target=end(first, last))
    assert verify._word(session)["state"] == word
