"""The look at a copy that has begun to run: what lives, what has died and of what, with real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from reberth.node.errors import OpError
from reberth.node.runs import look, run
from reberth.node.runs.look import Look
from reberth.node.runs.target import Target
from reberth.node.system import ends, procs
from reberth.node.system.durable import boottime_ns
from reberth.node.system.ends import kernel_tells


@pytest.fixture
def held(monkeypatch, tmp_path):
    """Start a shell command as a copy's first process, adopted by init as a restored one is; `end` it afterwards."""
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    started: list[int] = []

    def start(script: str, watched: bool = True) -> tuple[run.Run, Look, int]:
        one = run.Run.open(f"r{len(started)}", "target", f"x/{len(started)}")
        words = ["sh", "-c", f"setsid sh -c {script!r} >/dev/null 2>&1 & echo $!"]
        pid = int(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
        started.append(pid)
        deadline = time.monotonic() + 10
        while procs.command_line(pid)[:2] != ["sh", "-c"] and procs.alive(pid) and time.monotonic() < deadline:
            time.sleep(0.001)
        found = procs.task(pid)
        one.journal.write("copy-held", init=pid, start_ticks=found.start_ticks if found else 0, tree=[pid])
        looking = Look(one)
        if watched:
            looking.hold(pid, [pid])
        return one, looking, pid

    yield start
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def runs(one: run.Run) -> None:
    one.journal.write("running", running_ns=boottime_ns())


GROUP = "/nonexistent"


def test_a_copy_that_lives_is_seen_after_a_moment(held):
    one, looking, _ = held("while :; do sleep 0.01; done")
    assert looking.facts() == {"unseen": False, "ill": False}
    runs(one)
    assert looking.facts() == {"unseen": True, "ill": False}
    looking.look(GROUP)
    assert one.journal.has("looked") and looking.facts() == {"unseen": False, "ill": False}
    looking.look(GROUP)


@pytest.mark.parametrize(
    ("death", "words"),
    [("kill -TERM $$", "was killed by SIGTERM"), ("kill -ILL $$", "was killed by SIGILL"), ("exit 3", "status 3")],
)
def test_a_copy_that_dies_at_once_is_told_with_its_cause(held, death, words):
    """The twin of the one above: the same program with a planted death."""
    one, looking, pid = held(f"sleep 0.3; {death}")
    time.sleep(0.25)
    runs(one)
    with pytest.raises(OpError) as caught:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            one.journal.write("running", running_ns=boottime_ns())  # however slow this machine is
            looking._wait(looking._fds[pid], pid, boottime_ns())
            if not procs.alive(pid):
                break
        looking.look(GROUP)
    assert caught.value.kind == "ill"
    assert f"first process {pid} " in caught.value.message
    if ends._zombie_status(pid) is not None or kernel_tells():
        assert words in caught.value.message
    assert f"reberth recover {one.id} --rollback" in caught.value.hint
    assert looking.facts() == {"unseen": False, "ill": True, "ailment": caught.value.message}
    with pytest.raises(OpError):
        looking.look(GROUP)  # and so whenever it is asked


def test_a_zombie_is_no_living_copy(held):
    one, _, _ = held("sleep 60")
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    one.journal.write("copy-held", init=child.pid, start_ticks=0, tree=[child.pid])
    other = Look(one)
    other.hold(child.pid, [child.pid])
    runs(one)
    with pytest.raises(OpError, match="ended with exit status 0"):
        other.look(GROUP)
    child.wait()


def test_children_that_end_are_the_workloads_own_affair_but_not_those_of_wrong_surroundings(held):
    for death, problem in (("kill -KILL $$", ""), ("exit 1", ""), ("kill -SYS $$", "SIGSYS")):
        one, _, pid = held("sleep 60")
        child = subprocess.Popen(["sh", "-c", f"read x; {death}"], stdin=subprocess.PIPE)
        other = Look(one)
        other.hold(pid, [pid, child.pid])
        child.communicate(b"\n")
        runs(one)
        if problem and kernel_tells():
            with pytest.raises(OpError, match=f"process {child.pid} of the copy was killed by {problem}"):
                other.look(GROUP)
        else:
            other.look(GROUP)
            assert one.journal.has("looked")


def test_a_copy_that_is_frozen_again_does_not_live_unless_its_pages_are_missing(held, monkeypatch):
    for lazy, ill in ((False, True), (True, False)):
        one, looking, _ = held("while :; do sleep 0.01; done")
        if lazy:
            one.journal.write("lazy")
        monkeypatch.setattr(look.cgroup, "is_asked_to_freeze", lambda path: True)
        runs(one)
        if ill:
            with pytest.raises(OpError, match="frozen again"):
                looking.look(GROUP)
        else:
            looking.look(GROUP)
        assert looking.facts()["ill"] is ill


def test_a_helper_that_comes_later_looks_at_once(held):
    one, looking, pid = held("sleep 60", watched=False)
    runs(one)
    looking.look(GROUP)
    assert one.journal.has("looked")
    two, looking, pid = held("exit 0", watched=False)
    runs(two)
    while procs.alive(pid):
        time.sleep(0.001)
    with pytest.raises(OpError, match="ended"):
        looking.look(GROUP)


def test_without_its_records_there_is_nothing_to_look_at(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    one = run.Run.open("r1", "target", "x/1")
    with pytest.raises(OpError, match="does not run yet"):
        Look(one).look(GROUP)


def test_a_copy_with_fewer_processes_than_were_dumped_is_not_held(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    end = Target(run.Run.open("r1", "target", "x/1"))
    end.cgroup = str(tmp_path)
    monkeypatch.setattr("reberth.node.runs.target.cgroup.pids", lambda path: [os.getpid()])
    with pytest.raises(OpError, match="3 processes were dumped, the copy has 1"):
        end.held(os.getpid(), 3)
    assert end.held(os.getpid(), 1)["tasks"] == 1


def test_what_does_not_descend_from_the_first_process_is_none_of_the_copy():
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as child:
        deadline = time.monotonic() + 10
        below: list[int] = []
        while len(below) < 2 and time.monotonic() < deadline:
            below = [t.pid for t in procs.tree(child.pid)]
        try:
            assert procs.below(child.pid, [os.getpid(), *reversed(below)]) == below
        finally:
            os.killpg(child.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "ended with exit status 0"), (0x300, "ended with exit status 3"), (0x8B, "was killed by SIGSEGV")],
)
def test_words_of_a_wait_status(status, words):
    assert ends.words_of(status) == words


def test_a_signal_without_a_name():
    assert ends.signal_name(77) == "signal 77"
