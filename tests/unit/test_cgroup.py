"""Cgroup v2 as files: on a tree of plain files, and on the kernel's own where this machine has one."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.system import procs


def plain(path, *, frozen: int = 0, populated: int = 1, pids: str = "") -> str:
    """A directory that looks like a cgroup."""
    path.mkdir(parents=True)
    (path / "cgroup.freeze").write_text("0\n")
    (path / "cgroup.events").write_text(f"populated {populated}\nfrozen {frozen}\n")
    (path / "cgroup.procs").write_text(pids)
    (path / "cgroup.kill").write_text("")
    return str(path)


def test_what_the_files_say(tmp_path):
    path = plain(tmp_path / "a", frozen=1, pids="7\n8\n")
    plain(tmp_path / "a" / "below", pids="9\n")
    assert cgroup.events(path) == {"populated": 1, "frozen": 1}
    assert cgroup.is_frozen(path) and not cgroup.is_asked_to_freeze(path)
    assert sorted(cgroup.pids(path)) == [7, 8, 9]
    cgroup.ask_freeze(path)
    assert cgroup.is_asked_to_freeze(path)
    cgroup.thaw(path)
    assert not cgroup.is_asked_to_freeze(path)


def test_a_cgroup_that_is_gone_holds_nothing(tmp_path):
    gone = str(tmp_path / "gone")
    assert cgroup.events(gone) == {}
    assert cgroup.pids(gone) == []
    assert not cgroup.is_frozen(gone) and not cgroup.is_asked_to_freeze(gone)
    assert cgroup.kill(gone) is True
    assert cgroup.remove(gone) is True


def test_a_freeze_that_does_not_come_is_taken_back(tmp_path):
    path = plain(tmp_path / "a")
    with pytest.raises(OpError) as caught:
        cgroup.freeze(path, timeout_s=0.0)
    assert caught.value.kind == "freeze"
    assert not cgroup.is_asked_to_freeze(path)
    (tmp_path / "a" / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    cgroup.freeze(path, timeout_s=0.0)
    assert cgroup.is_asked_to_freeze(path)


def test_kill_says_when_tasks_survive(tmp_path):
    assert cgroup.kill(plain(tmp_path / "a"), timeout_s=0.02) is False
    assert (tmp_path / "a" / "cgroup.kill").read_text() == "1"
    assert cgroup.kill(plain(tmp_path / "b", populated=0)) is True


@pytest.mark.parametrize(
    ("path", "group", "want"),
    [
        ("/c/a", "/c/a", True),
        ("/c/a/b", "/c/a", True),
        ("/c/ab", "/c/a", False),
        ("/c", "/c/a", False),
        ("/c", "/", True),
    ],
)
def test_inside_counts_whole_names(path, group, want):
    assert cgroup.inside(path, group) is want


def test_create_takes_one_that_is_there_and_remove_only_empty_ones(tmp_path):
    path = str(tmp_path / "x" / "y")
    os.mkdir(tmp_path / "x")
    cgroup.create(path)
    cgroup.create(path)
    (tmp_path / "x" / "file").write_text("")
    assert cgroup.remove(str(tmp_path / "x")) is False
    assert not os.path.exists(path)


def test_what_other_runs_have_just_made_stays(tmp_path, monkeypatch):
    """Two moves at once on one node: the cgroup that a run is about to fill is as empty as one that is left over."""
    names = ("reberth-r1", "reberth-r2", "reberth-helper-r2", "reberth-home", "reberth-busy", "other")
    for name in names:
        plain(tmp_path / name, populated=int(name == "reberth-busy"))
    monkeypatch.setattr(cgroup, "remove", lambda path: gone.append(os.path.basename(path)))

    def open_runs():
        plain(
            tmp_path / "reberth-late", populated=0
        )  # made after the names were read, by a run that is not in the list
        return ["r2"]

    gone = []
    cgroup.sweep(str(tmp_path), open_runs, keep=str(tmp_path / "reberth-home"))
    assert gone == ["reberth-r1"]
    gone.clear()
    cgroup.sweep(str(tmp_path), list)
    assert set(gone) == {"reberth-r1", "reberth-r2", "reberth-helper-r2", "reberth-home", "reberth-late"}


def test_a_process_that_has_gone_cannot_be_asked():
    with pytest.raises((ProcessLookupError, OpError)):
        cgroup.of_pid(2**22 + 1)


# The kernel's own


def usable() -> bool:
    return os.getuid() == 0 and bool(cgroup.mount_point()) and os.access(cgroup.mount_point(), os.W_OK)


@pytest.fixture
def real():
    """A cgroup of this test, removed with all that is in it."""
    path = os.path.join(cgroup.mount_point(), f"reberth-unit-{os.getpid()}")
    cgroup.create(path)
    yield path
    cgroup.thaw(path)
    cgroup.kill(path)
    cgroup.remove(path)


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.skipif(not usable(), reason="no cgroup v2 that may be written")
def test_the_kernel_freezes_thaws_and_kills(real, sleeper):
    home = cgroup.of_pid(sleeper.pid)
    cgroup.enter(real, sleeper.pid)
    assert cgroup.of_pid(sleeper.pid) == real
    assert cgroup.pids(real) == [sleeper.pid]
    cgroup.freeze(real)
    assert cgroup.is_frozen(real) and cgroup.is_asked_to_freeze(real)
    cgroup.thaw(real)
    assert not cgroup.is_asked_to_freeze(real)
    cgroup.freeze(real)
    assert cgroup.kill(real) is True  # frozen tasks die, too
    assert sleeper.wait(5) == -9
    assert not procs.alive(sleeper.pid)
    assert cgroup.remove(real) is True
    cgroup.create(real)
    cgroup.enter(home, 2**22 + 1)  # has gone: no error


@pytest.mark.skipif(not usable(), reason="no cgroup v2 that may be written")
def test_wait_frozen_hears_of_it_at_once(real, sleeper):
    cgroup.enter(real, sleeper.pid)
    assert cgroup.wait_frozen(real, 0.0) is False
    cgroup.ask_freeze(real)
    started = time.monotonic()
    assert cgroup.wait_frozen(real, 5.0) is True
    assert time.monotonic() - started < 2.0


@pytest.mark.skipif(not usable(), reason="no cgroup v2 that may be written")
def test_undo_brings_tasks_home_and_removes_the_cgroup(real, sleeper):
    from reberth.node.runs import run

    home = cgroup.of_pid(sleeper.pid)
    cgroup.enter(real, sleeper.pid)
    run._cgroup_remove({"path": real})
    assert os.path.isdir(real)  # somebody lives there
    for _ in range(2):
        run._cgroup_home({"path": real, "to": home})
    assert cgroup.of_pid(sleeper.pid) == home
    assert not os.path.isdir(real)
    cgroup.create(real)
    cgroup.enter(real, sleeper.pid)
    for _ in range(2):
        run._cgroup_kill({"path": real})
    assert not os.path.isdir(real)
    assert sleeper.wait(5) == -9
    cgroup.create(real)
