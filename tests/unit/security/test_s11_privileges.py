"""S11: root is needed on the nodes alone, and a helper without it says so before anything is touched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reberth.node.errors import OpError
from reberth.node.operations import table
from reberth.node.runs import run


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize("role", ["source", "target"])
def test_a_run_is_not_opened_without_root(state, monkeypatch, role):
    monkeypatch.setattr(table.os, "getuid", lambda: 1000)
    with pytest.raises(OpError) as caught:
        table.open_run(SimpleNamespace(end=None), None, run_id="r1", role=role, workload="criu/7")
    assert (caught.value.kind, bool(caught.value.hint)) == ("not-root", True)
    assert not state.exists()


def test_with_root_it_goes_on(state, monkeypatch):
    """The twin: the same call gets as far as the run's directory."""
    monkeypatch.setattr(table.os, "getuid", lambda: 0)
    monkeypatch.setattr(
        run.Run, "open", classmethod(lambda cls, *words, **facts: (_ for _ in ()).throw(KeyError("on")))
    )
    with pytest.raises(KeyError):
        table.open_run(SimpleNamespace(end=None, dir="/x"), None, run_id="r1", role="source", workload="criu/7")


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", "-x", "x\n", "x" * 64, "$(x)"])
def test_a_run_cannot_be_named_out_of_its_place(state, run_id):
    with pytest.raises(OpError) as caught:
        table.open_run(SimpleNamespace(end=None), None, run_id=run_id, role="source", workload="criu/7")
    assert caught.value.kind == "bad-argument"
    assert table.live_socket(run_id) == ""
    assert table.leftovers(None, None, run_id) == []
    assert not state.exists()


def test_s11_the_preflight_refuses_a_node_without_root_before_anything_is_touched(world):
    world.machine("pi2", uid=1000)
    plan = world.plan()
    assert [(check.id, check.node) for check in plan.refused] == [("root", "pi2")]
    assert "become" in plan.refused[0].remedy


def test_s11_with_root_on_both_it_does_not(world):
    assert not world.plan().refused
