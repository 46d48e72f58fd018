"""How the helper runs a tool to its end: the words, the time, and children that outlive it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from reberth.node.errors import OpError
from reberth.node.system import procs, spawn


def test_what_it_says_and_hears():
    found = spawn.run(["sh", "-c", "cat; echo no >&2; exit 3"], stdin="yes")
    assert found == {"code": 3, "out": "yes", "err": "no\n"}


def test_a_killed_tool_is_not_waited_for_because_of_its_children():
    """criu's own checks have children: with criu killed they kept its output open, and the helper waited for them."""
    found = spawn.run(["sh", "-c", "echo begun; sleep 60 & kill -9 $$"], timeout_s=15)
    assert found == {"code": -9, "out": "begun\n", "err": ""}


def test_one_that_takes_too_long_is_ended_with_its_children(tmp_path):
    with pytest.raises(OpError) as caught:
        spawn.run(["sh", "-c", f"sleep 60 & echo $! >{tmp_path}/pid; sleep 60"], timeout_s=1.0)
    assert caught.value.kind == "timeout"
    child, end_s = int((tmp_path / "pid").read_text()), time.monotonic() + 10
    while (task := procs.task(child)) is not None and task.state not in "ZX":
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_more_than_a_pipe_holds_goes_both_ways():
    text = "x" * 300_000
    assert spawn.run(["sh", "-c", "sleep 1.2; cat"], stdin=text)["out"] == text


def test_a_dump_is_the_last_that_a_short_memory_ends(monkeypatch):
    """Without CAP_SYS_RESOURCE it stays as it was, which is no error."""
    with subprocess.Popen(["sleep", "60"]) as process:
        path = Path(f"/proc/{process.pid}/oom_score_adj")
        before = path.read_text()
        spawn.spare(process.pid)
        assert path.read_text().strip() in (str(spawn.SPARED), before.strip())
        monkeypatch.setattr(spawn, "SPARED", int(before) + 1)
        spawn.spare(process.pid)  # the twin: what everyone may do is done
        assert int(path.read_text()) in (int(before) + 1, -900)
        process.kill()
    spawn.spare(process.pid)
