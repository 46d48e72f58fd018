"""Order on a node: the vote before the kill, the record before the thaw; and silence has an end."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from reberth.node.criu.tool import Job
from reberth.node.daemon import loop
from reberth.node.daemon.loop import SILENCE_S, Daemon
from reberth.node.errors import OpError
from reberth.node.runs import run, source, target
from reberth.node.runs.run import Run
from reberth.node.runs.source import Source
from reberth.node.runs.target import Target

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))


def events(run_id):
    """What stands in the journal on disk, read anew."""
    return [record["event"] for record in Run.load(run_id).journal.records]


@pytest.fixture
def frozen_source(mocker):
    """A source whose tool is held after the dump; what it does to tool and tasks is noted, none of it is done."""
    one = Source(Run.open("r1", "source", "criu/7"))
    one.cgroup = "/sys/fs/cgroup/none"
    finish = mocker.patch.object(one, "_finish", autospec=True, return_value=0)
    kill = mocker.patch.object(source.cgroup, "kill", autospec=True, return_value=True)
    return SimpleNamespace(end=one, finish=finish, kill=kill)


@pytest.mark.parametrize("vote", [None, "RESUME"])
def test_a_source_without_its_own_vote_ready_is_not_given_up(frozen_source, vote):
    """Whatever a controller asks for: criu is not let go on, no task is killed, and the journal says nothing of it."""
    if vote:
        frozen_source.end.run.cast_vote(vote)
    before = events("r1")
    with pytest.raises(OpError) as caught:
        frozen_source.end.release("kill")
    assert caught.value.kind == "protocol"
    assert not frozen_source.finish.called and not frozen_source.kill.called
    assert events("r1") == before


def test_a_source_with_its_vote_is_given_up_once_and_the_wish_is_on_disk_first(frozen_source):
    frozen_source.end.run.cast_vote("READY")
    seen = []
    frozen_source.finish.side_effect = lambda *_: seen.append(events("r1")[-1]) or 0
    frozen_source.kill.side_effect = lambda *_: seen.append(events("r1")[-1]) or True
    frozen_source.end.release("kill")
    frozen_source.end.release("kill")
    assert seen == ["releasing", "releasing"] and events("r1")[-1] == "released"


@pytest.fixture
def held_copy(mocker):
    """A copy that waits in post-restore with PERMIT; each step towards its freedom notes the journal on disk."""
    one = Target(Run.open("r2", "target", "criu/7"))
    one.cgroup, one.script_pid = "/sys/fs/cgroup/none", 4712
    one.run.decide("PERMIT")
    seen = []
    job = one.job = mocker.create_autospec(Job, instance=True)
    job.above, job.waiting = 4711, True
    job.holds.return_value = True
    job.wait_hook.return_value = (4712, 1, 0)
    job.wait_end.return_value = 0
    job.answer.side_effect = lambda word: seen.append((word, events("r2")[-1]))
    mocker.patch.object(target.procs, "descends", autospec=True, return_value=True)
    for name, value in {"wait_frozen": True, "is_asked_to_freeze": True, "pids": [7]}.items():
        mocker.patch.object(target.cgroup, name, autospec=True, return_value=value)
    for name in ("ask_freeze", "thaw"):
        note = mocker.patch.object(target.cgroup, name, autospec=True)
        note.side_effect = lambda *_, name=name: seen.append((name, events("r2")[-1]))
    mocker.patch.object(one.filling, "watch", autospec=True)
    return SimpleNamespace(end=one, job=job, seen=seen)


def test_a_copy_is_let_go_when_landed_is_on_disk_and_not_before(held_copy):
    """A node that loses its power at the thaw must know afterwards that the copy may have run."""
    held_copy.end._land()
    assert held_copy.seen == [
        ("go", "deciding"),  # criu goes on to pre-resume, where the copy is frozen
        ("ask_freeze", "deciding"),
        ("go", "deciding"),  # criu ends; the copy stays frozen
        ("thaw", "landed"),
    ]
    assert events("r2")[-1] == "running"


def test_a_copy_that_is_not_frozen_when_criu_has_ended_has_not_landed(held_copy, mocker):
    target.cgroup.wait_frozen.side_effect = [True, False]
    mocker.patch.object(held_copy.end, "_kill_copy", autospec=True)
    held_copy.job.errors.return_value = ""
    with pytest.raises(OpError):
        held_copy.end._land()
    assert "landed" not in events("r2") and "thaw" not in [word for word, _ in held_copy.seen]


class Clock:
    """Time that passes only when a helper waits; it also plays `Daemon.done`."""

    def __init__(self, daemon, seconds, heard=()):
        self.daemon, self.left, self.now_s, self.heard = daemon, seconds, 1000.0, heard

    def wait(self, seconds):
        self.left -= 1
        self.now_s += seconds
        if self.now_s - 1000.0 in self.heard:
            self.daemon.heard_ns = self.ns()
        return self.left < 0

    def set(self):
        self.left = 0

    def is_set(self):
        return self.left <= 0

    def ns(self):
        return int(self.now_s * 1e9)


@pytest.fixture
def silent(mocker, tmp_path):
    """A helper with an open run and a connection that stays open; returns when it acted alone, in seconds."""

    def watch(seconds, heard=(), control=True):
        daemon = Daemon(str(tmp_path))
        clock = daemon.done = Clock(daemon, seconds, heard)
        mocker.patch.object(loop, "boottime_ns", clock.ns)
        daemon.heard_ns = clock.ns()
        daemon.control = mocker.sentinel.control if control else None
        acted = []
        daemon.end = mocker.create_autospec(Source, instance=True)
        daemon.end.lost.side_effect = lambda: acted.append(clock.now_s - 1000.0) or True
        daemon.watch()
        return acted

    return watch


def test_a_line_that_is_silent_too_long_is_a_lost_one_though_it_is_open(silent):
    """A cut link closes nothing: after the limit, and not before, the helper acts as if the controller had gone."""
    assert silent(60) == [SILENCE_S + 1]
    assert silent(int(SILENCE_S)) == []


def test_each_word_of_the_controller_begins_the_silence_anew(silent):
    assert silent(60, heard=(5.0, 12.0)) == [12.0 + SILENCE_S + 1]
    assert silent(40, heard=tuple(float(n) for n in range(0, 40, 8))) == []


def test_a_closed_line_needs_no_silence(silent):
    assert silent(60, control=False) == [1.0]
