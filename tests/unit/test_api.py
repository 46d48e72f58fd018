"""Nodes that are only an API: what they answer in the place of a helper, and the client's remotes as such nodes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from reberth import lxdremotes
from reberth.connect.api import ApiShell
from reberth.connect.process import Finished
from reberth.report.report import Report, render_text
from reberth.run import outcome
from reberth.run.decision import BACK
from reberth.run.journal import Journal
from reberth_hooks import Exit, HelperError, Node, Owner, Route, UsageError


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def shell(name="n1", answer=lambda end, op, args: {"said": op}):
    return ApiShell(Node(name, connector="lxd"), Route(api=True, helper=False), answer)


def planned(run_id, source="n1", target="n2", name="c1"):
    plan = {"workload": {"backend": "lxd", "name": name}, "target_name": name}
    Journal(run_id).write("plan", plan={**plan, "source": {"name": source}, "target": {"name": target}})


def test_the_protocol_is_asked_of_the_plugin_and_the_rest_answered_here():
    end = shell()
    assert end.facts == {"said": "hello"} and end.call("facts") == {"said": "facts"}
    assert end.call("leftovers", run_id="r") == [] and end.call("adopt", run_id="r") is None
    for op in ("dump", "stats", "gate", "verify"):
        with pytest.raises(HelperError, match=f"no {op}") as error:
            end.call(op)
        assert error.value.kind == "no-helper"
    with pytest.raises(HelperError):
        end.run(["true"])
    with pytest.raises(HelperError):
        end.begin("limit", bytes_s=1)


def test_what_ends_a_wait_is_heard_at_every_call():
    end = shell()
    end.on_wait = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        end.call("ping")


@pytest.mark.parametrize(("end", "name"), [("n1", "c1"), ("n2", "c1")])
def test_one_run_at_a_time(end, name):
    """On either end, as long as the other run has no end."""
    planned("r1")
    assert shell(end).call("open", run_id="r1", role="source", workload=f"lxd/{name}") == {}
    with pytest.raises(HelperError, match="run r1") as error:
        shell(end).call("open", run_id="r2", role="source", workload=f"lxd/{name}")
    assert error.value.kind == "busy"
    assert shell("n3").call("open", run_id="r2", role="target", workload="lxd/c1") == {}
    assert shell(end).call("open", run_id="r2", role="source", workload="lxd/c2") == {}
    Journal("r1").write("end", outcome="moved", owner="target", exit_code=0)
    assert shell(end).call("open", run_id="r2", role="source", workload=f"lxd/{name}") == {}


@pytest.mark.parametrize(
    ("notes", "outcome_", "code"),
    [({"lost": "its memory is lost"}, "lost", 60), ({"set-back": "as it was"}, "rolled-back", 20)],
)
def test_what_was_lost_is_told(notes, outcome_, code):
    session = SimpleNamespace(
        recall=notes.get,
        ends=[],
        known=lambda side: {},
        plan=SimpleNamespace(options=SimpleNamespace(keep_images=False), checks=()),
        journal=SimpleNamespace(records=[]),
    )
    report = Report(source="n1:lxd/c1", target="n2:c1")
    outcome.fill_end(report, session, BACK, None, "")
    assert (report.outcome, report.exit_code, report.owner) == (outcome_, code, Owner.SOURCE.value)
    assert report.warnings == list(notes.values())
    if code == Exit.LOST:
        assert "started afresh on n1" in render_text(report)


REMOTES = {
    "local": {"Addr": "unix://", "Protocol": "lxd"},
    "n1": {"Addr": "https://192.0.2.1:8443", "Protocol": "lxd"},
    "images": {"Addr": "https://images.example", "Protocol": "simplestreams", "Public": True},
    "bad name": {"Addr": "https://192.0.2.3:8443", "Protocol": "lxd"},
}


def test_remotes_as_nodes(tmp_path, monkeypatch):
    (tmp_path / "servercerts").mkdir()
    (tmp_path / "servercerts/n1.crt").touch()
    monkeypatch.setenv("LXD_CONF", str(tmp_path))
    monkeypatch.setenv("LXD_SOCKET", "/run/some.socket")
    monkeypatch.setattr(lxdremotes, "run_local", lambda argv, env: Finished(0, json.dumps(REMOTES), ""))
    found = lxdremotes.nodes("lxc")
    pinned = {"certificate": f"{tmp_path}/servercerts/n1.crt"}
    assert {name: node.options["lxd"] for name, node in found.items()} == {
        "local": {"url": "unix:///run/some.socket", "identity": str(tmp_path)},
        "n1": {"url": "https://192.0.2.1:8443", "identity": str(tmp_path), **pinned},
    }
    assert {(node.connector, node.backends, node.transports) for node in found.values()} == {("lxd", ("lxd",), ())}
    assert [remote.name for remote in lxdremotes.remotes("lxc")] == ["n1"]
    with pytest.raises(UsageError):
        lxdremotes.nodes("ls")


def test_a_remote_with_several_addresses_is_its_first(monkeypatch):
    said = {"n1": {"Addrs": ["https://192.0.2.1:8443", "https://192.0.2.9:8443"], "Protocol": "incus"}}
    monkeypatch.setattr(lxdremotes, "run_local", lambda argv, env: Finished(0, json.dumps(said), ""))
    assert [remote.url for remote in lxdremotes.remotes("incus")] == ["https://192.0.2.1:8443"]


@pytest.mark.parametrize(
    ("client", "program", "place"),
    [
        ("lxc", "/snap/bin/lxc", "snap/lxd/common/config"),
        ("lxc", "/usr/bin/lxc", ".config/lxc"),
        ("incus", "/usr/bin/incus", ".config/incus"),
        ("lxc", None, ".config/lxc"),
    ],
)
def test_the_folder_is_that_of_the_client_which_is_called(monkeypatch, tmp_path, client, program, place):
    """A folder of the snap that was left behind pins the certificates of other days, and of other daemons."""
    monkeypatch.delenv("LXD_CONF", raising=False)
    monkeypatch.delenv("INCUS_CONF", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "snap/lxd/common/config").mkdir(parents=True)
    monkeypatch.setattr(lxdremotes.shutil, "which", lambda name: program)
    assert lxdremotes.client_dir(client) == tmp_path / place


def test_a_node_by_ssh_keeps_the_certificate_of_its_remote(monkeypatch, tmp_path):
    """ssh may lead to another machine than the remote's address."""
    (tmp_path / "servercerts").mkdir()
    (tmp_path / "servercerts/n1.crt").touch()
    monkeypatch.setenv("LXD_CONF", str(tmp_path))
    remote = lxdremotes.Remote("n1", "192.0.2.1", "https://192.0.2.1:8443")
    kept = {"url": remote.url, "certificate": f"{tmp_path}/servercerts/n1.crt"}
    assert lxdremotes.over_ssh(remote, "lxc") == kept
    unpinned = lxdremotes.Remote("n2", "192.0.2.2", "https://192.0.2.2:8443")
    assert lxdremotes.over_ssh(unpinned, "lxc") == {"url": unpinned.url}
