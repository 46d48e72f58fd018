"""What an open run holds is said to be that run's, before anything else is said of it; a process is more than a pid."""

from __future__ import annotations

import os

import pytest

from reberth.node.errors import OpError
from reberth.node.operations import table
from reberth.node.runs import run as run_module
from reberth.node.runs.run import Run
from reberth.node.system import procs
from reberth.plan.busy import name_of_a_run
from reberth.run.journal import Journal
from reberth_hooks import BusyError, Check, Level, plain


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(run_module, "STATE", str(tmp_path / "node"))


def test_a_plan_during_a_move_names_the_run_that_holds_the_workload(world):
    world.plan()
    world.shells["local"].runs = [{"id": "r7", "workload": "runc/web", "role": "source", "frozen": True}]
    with pytest.raises(BusyError, match="runc/web on node local is busy with run r7") as caught:
        world.plan()
    assert caught.value.exit_code == 11 and "reberth recover r7" in caught.value.hint


def test_a_name_that_a_run_builds_on_the_target_is_that_runs(world):
    world.plan()
    world.shells["pi2"].runs = [{"id": "r7", "workload": "runc/web", "role": "target"}]
    with pytest.raises(BusyError, match="runc/web on node pi2 is busy with run r7"):
        world.plan()
    world.plan(target="pi2:other")


def test_runs_of_other_workloads_or_of_ended_processes_hold_nothing(world):
    world.plan()
    world.shells["local"].runs = [
        {"id": "r7", "workload": "runc/other", "role": "source"},
        {"id": "r8", "workload": "runc/web", "role": "source", "gone": True},
    ]
    assert world.plan().workload.name == "web"


root = pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")


@root
def test_another_process_with_the_same_pid_is_not_busy():
    Run.open("r1", "source", "criu/7", start_ticks=100)
    with pytest.raises(OpError, match="r1"):
        Run.open("r2", "source", "criu/7", start_ticks=100)
    Run.open("r3", "source", "criu/7", start_ticks=200)


@root
@pytest.mark.parametrize(("role", "start"), [("source", 0), ("target", 200), ("target", 0)])
def test_without_a_proof_it_stays_busy(role, start):
    Run.open("r1", "source", "criu/7", start_ticks=100)
    with pytest.raises(OpError, match="r1"):
        Run.open("r2", role, "criu/7", start_ticks=start)


@root
def test_the_open_runs_tell_whose_process_has_ended():
    me = procs.task(os.getpid())
    Run.open("r1", "source", f"criu/{me.pid}", start_ticks=me.start_ticks)
    Run.open("r2", "source", f"criu/{me.pid}", start_ticks=me.start_ticks + 1)
    Run.open("r3", "target", "criu/4194305", start_ticks=5)
    Run.open("r4", "source", "runc/7")
    assert [(r["id"], r["gone"]) for r in table.runs(None, None)] == [
        ("r1", False), ("r2", True), ("r3", False), ("r4", False),
    ]  # fmt: skip


def test_a_name_of_an_unfinished_run_is_recovered_and_not_deleted(world):
    plan = world.plan()
    taken = Check("name", Level.FAIL, "a container web exists there", "move to pi2:OTHERNAME", "pi2")
    other = Check("arch", Level.FAIL, "another", "take another", "pi2")
    assert name_of_a_run([taken], "pi2", "runc/web") == (taken,)
    Journal(plan.id).write("plan", format=1, plan=plain(plan))
    found = name_of_a_run([taken, other], "pi2", "runc/web")
    assert f"reberth recover {plan.id}" in found[0].remedy and found[1] == other
    assert name_of_a_run([taken], "pi2", "runc/other") == (taken,)
    Journal(plan.id).write("end", outcome="moved", owner="target", exit_code=0)
    assert name_of_a_run([taken], "pi2", "runc/web") == (taken,)
