"""A tree that starts and ends processes all the time comes into its cgroup: what has gone is passed over."""

from __future__ import annotations

import os
import subprocess

import pytest

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.runs import enclose, run
from reberth.node.survey.objects import Holdings
from reberth.node.system import procs

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")


def task(pid, ppid=1, ticks=7, state="S"):
    return procs.Task(pid, ppid, pid, pid, 0, 1, ticks, state, f"p{pid}")


class World:
    """Processes that come and go: `looks` are what each look at the tree finds, `groups` where each process is."""

    def __init__(self, mocker, tmp_path, looks):
        self.looks, self.groups, self.entered = looks, {}, []
        self.known = {one.pid: one for look in looks for one in look}
        mocker.patch.object(procs, "tree", autospec=True, side_effect=lambda pid: self._look())
        mocker.patch.object(cgroup, "of_pid", autospec=True, side_effect=self._of_pid)
        mocker.patch.object(cgroup, "enter", autospec=True, side_effect=self._enter)
        mocker.patch.object(procs, "alive", autospec=True, side_effect=self._alive)

    def _look(self):
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def _of_pid(self, pid):
        if pid not in self.known:
            raise ProcessLookupError(f"no process {pid}")
        return self.groups.get(pid, "/home")

    def _alive(self, pid, start_ticks=0):
        return pid in self.known and start_ticks in (0, self.known[pid].start_ticks)

    def _enter(self, path, pid):
        self.entered.append(pid)
        self.groups[pid] = path


@pytest.fixture
def world(mocker, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    mocker.patch.object(cgroup, "sweep", autospec=True)
    mocker.patch.object(cgroup, "create", autospec=True)

    def make(*looks):
        return World(mocker, tmp_path, [list(look) for look in looks])

    return make


def test_a_process_that_ends_between_two_looks_is_passed_over(world):
    root, short = task(10), task(11, 10)
    one = world([root, short], [root, short], [root])
    del one.known[11]
    path = enclose.enclose(run.Run.open("r1", "source", "criu/10"), 10)
    assert one.entered == [10] and path.endswith("reberth-r1")


def test_children_that_are_born_inside_cost_no_pass(world):
    """As many as there are: the tree is inside, so it is done."""
    root = task(10)
    one = world([root], [root], *([root, task(100 + n, 10)] for n in range(50)))
    one.groups.update({100 + n: "/home/reberth-r1" for n in range(50)})
    enclose.enclose(run.Run.open("r1", "source", "criu/10"), 10)
    assert one.entered == [10] and len(one.looks) > 40


def test_a_child_that_was_born_outside_meanwhile_is_taken_in(world):
    root, late = task(10), task(11, 10)
    one = world([root], [root], [root, late], [root, late])
    enclose.enclose(run.Run.open("r1", "source", "criu/10"), 10)
    assert one.entered == [10, 11]


def test_what_cannot_be_caught_has_a_word_and_an_end(world, monkeypatch):
    monkeypatch.setattr(enclose, "ENCLOSE_S", 0.05)
    one = world([task(10)])
    one._enter = lambda path, pid: None
    cgroup.enter.side_effect = one._enter
    with pytest.raises(OpError) as caught:
        enclose.enclose(run.Run.open("r1", "source", "criu/10"), 10)
    assert caught.value.kind == "fence" and "10 (p10)" in caught.value.message


def test_a_root_that_has_ended_is_an_end(world):
    one = world([task(10)])
    one.known.clear()
    with pytest.raises(OpError) as caught:
        enclose.enclose(run.Run.open("r1", "source", "criu/10"), 10)
    assert caught.value.kind == "ended"


def test_the_fence_is_not_asked_of_a_pid_that_is_anothers_by_now(world, monkeypatch):
    one = world([task(10), task(11, 10, ticks=3)])
    one.groups = {10: "/w", os.getpid(): "/h", 11: "/elsewhere"}
    one.known.update({os.getpid(): task(os.getpid()), 11: task(11, ticks=99)})
    enclose.check_fence(10, "/w")
    one.known[11] = task(11, ticks=3)
    with pytest.raises(OpError, match="11"):  # the twin: it is that very process
        enclose.check_fence(10, "/w")


def test_a_tree_of_short_lived_processes_is_enclosed_and_looked_at():
    """On the real kernel: a shell that starts one program after another."""
    if not cgroup.mount_point():
        pytest.skip("needs cgroup v2")
    with subprocess.Popen(["sh", "-c", "while :; do /bin/true; done"], start_new_session=True) as process:
        path = os.path.join(cgroup.mount_point(), f"reberth-test-churn-{os.getpid()}")
        cgroup.create(path)
        try:
            enclose._take_in(process.pid, path)
            for _ in range(30):
                found = Holdings(frozenset({process.pid}))
                for one in procs.tree(process.pid):
                    try:
                        found.add(one)
                    except (FileNotFoundError, ProcessLookupError, PermissionError):
                        continue
                assert not found.outside
            assert enclose.outside(process.pid, path) == []
        finally:
            cgroup.kill(path)
            cgroup.remove(path)


def test_a_descriptor_whose_process_has_ended_is_no_file_outside(mocker):
    """Between the name and its mount: no KeyError, and nothing is claimed."""
    mocker.patch.object(procs, "link", autospec=True, return_value="/some/file")
    found = Holdings(frozenset({7}))
    found._descriptor("/proc/7", "3", {"25": "ext4"})
    assert not found.outside and not found.files and not found.opened
