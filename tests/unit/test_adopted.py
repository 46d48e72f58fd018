"""A helper that takes over from a dead one: the tool that outlived it is ended, and only what is proven is claimed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.runs import run
from reberth.node.runs.run import Run
from reberth.node.runs.source import Source
from reberth.node.runs.target import Target, end_of_earlier_boots
from reberth.node.system import orphans
from reberth.run.decide import Want, decide

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


@pytest.fixture
def tool():
    """A tool that works for run r1, of a helper that is no more."""
    with subprocess.Popen(SLEEP, stdout=subprocess.PIPE, env={**os.environ, orphans.MARK: "r1"}) as process:
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


@pytest.fixture
def fence(tmp_path, monkeypatch):
    """A cgroup of plain files; nothing is in it."""
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    path = tmp_path / "cg"
    path.mkdir()
    (path / "cgroup.freeze").write_text("1\n")
    (path / "cgroup.events").write_text("populated 0\nfrozen 1\n")
    (path / "cgroup.procs").write_text("")
    return path


def test_a_source_that_is_let_run_has_no_tool_at_it_any_more(tool, fence):
    opened = Run.open("r1", "source", "criu/7")
    opened.journal.write("freezing", cgroup=str(fence), argv=["criu"], root_pid=1, start_ticks=0)
    facts = Source(Run.load("r1")).release("resume")
    assert facts["resumed"]
    assert tool.wait(10) == -15
    assert [task["pid"] for task in Run.load("r1").journal.last("strays")["tasks"]] == [tool.pid]
    assert (fence / "cgroup.freeze").read_text().startswith("0")


# A task that a killed tool has damaged: it dies when it runs again, a moment later; or a whole one.
DAMAGED = "import sys, time\nprint('up', flush=True)\nwhile open(sys.argv[1]).read().strip() != '0': time.sleep(0.01)\n"


@pytest.mark.parametrize("damaged", [True, False])
def test_a_task_that_dies_of_what_a_killed_tool_left_is_not_said_to_run(tool, fence, damaged):
    """criu 4.2.1 hung in the first process of a container, systemd, which died when criu was ended."""
    words = [sys.executable, "-c", DAMAGED + ("time.sleep(0.2)" if damaged else "time.sleep(60)")]
    with subprocess.Popen([*words, str(fence / "cgroup.freeze")], stdout=subprocess.PIPE) as task:
        assert task.stdout.readline() == b"up\n"
        (fence / "cgroup.procs").write_text(f"{task.pid}\n")
        opened = Run.open("r1", "source", "criu/7")
        opened.journal.write("freezing", cgroup=str(fence), argv=["criu"], root_pid=1, start_ticks=0)
        facts = Source(Run.load("r1")).release("resume")
        task.kill()
    assert facts["resumed"] and facts["gone"] is damaged
    assert decide(facts, {}, Want.BACK).outcome == ("ended" if damaged else "rolled-back")


def test_a_copy_that_is_taken_back_has_no_tool_that_builds_it(tool, fence):
    Run.open("r1", "target", "criu/7").journal.write("restoring", cgroup=str(fence), argv=["criu"])
    facts = Target(Run.load("r1")).decide("ABORT")
    assert facts["taken_back"] and tool.wait(10) == -15


@pytest.mark.parametrize("vetoed", [True, False])
def test_only_the_scripts_own_word_proves_that_the_copy_never_ran(fence, vetoed):
    opened = Run.open("r1", "target", "criu/7")
    opened.journal.write("restoring", cgroup=str(fence), argv=["criu"])
    opened.decide("PERMIT")
    if vetoed:
        os.link(os.path.join(opened.dir, "verdict.ABORT"), os.path.join(opened.dir, "vetoed"))
    target = Target(Run.load("r1"))
    with pytest.raises(OpError) as caught:
        target.decide("PERMIT")
    assert caught.value.kind == "landing"
    facts = target.facts()
    assert facts["landing_failed"] and facts["may_have_run"] is not vetoed
    assert facts["verdict"] == "PERMIT"


def test_permit_for_a_copy_that_nobody_holds_is_an_abort(fence):
    opened = Run.open("r1", "target", "criu/7")
    opened.journal.write("restoring", cgroup=str(fence), argv=["criu"])
    facts = Target(opened).decide("PERMIT")
    assert (facts["verdict"], facts["taken_back"]) == ("ABORT", True)


@pytest.mark.parametrize(
    ("boot", "role", "verdict", "ended"),
    [
        ("earlier", "target", None, "rolled-back"),
        ("earlier", "target", "ABORT", "rolled-back"),
        ("earlier", "target", "PERMIT", ""),
        ("earlier", "source", None, ""),
        ("", "target", None, ""),
    ],
)
def test_what_a_restart_left_undecided_is_ended_before_the_next_run(fence, boot, role, verdict, ended):
    """Its source runs again and nobody comes for it: it would answer "busy" for ever."""
    opened = Run.open("r1", role, "criu/7", boot_id=boot or run.boot_id())
    if verdict:
        opened.decide(verdict)
    end_of_earlier_boots()
    after = Run.load("r1")
    assert after.ended == ended
    assert after.verdict() == ("ABORT" if ended else verdict)


def test_a_cgroup_is_claimed_only_while_it_is_nobodys(fence):
    target = Target(Run.open("r1", "target", "runc/web"))
    (fence / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    target._claim(str(fence))
    assert target.cgroup == "" and not target.run.journal.has("undo")
    (fence / "cgroup.events").write_text("populated 0\nfrozen 0\n")
    target._claim(str(fence))
    undo = target.run.journal.last("undo")
    assert (target.cgroup, undo["do"], undo["path"]) == (str(fence), "cgroup_kill", str(fence))
    assert cgroup.events(str(fence)) == {"populated": 0, "frozen": 0}
