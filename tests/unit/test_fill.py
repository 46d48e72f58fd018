"""A fill of memory is over when its daemon has ended well, and also when nobody is left who needs it."""

from __future__ import annotations

import subprocess

import pytest

from reberth.node.errors import OpError
from reberth.node.pages import fill


@pytest.fixture
def copy(tmp_path):
    def tell(populated):
        (tmp_path / "cgroup.events").write_text(f"populated {populated}\nfrozen 0\n")
        return str(tmp_path)

    tell(1)
    (tmp_path / "cgroup.freeze").write_text("0\n")
    return tell


@pytest.fixture
def filling(tmp_path, monkeypatch):
    """A fill whose daemon is any program."""
    monkeypatch.setattr(fill, "NOBODY_S", 0.3)
    started = []

    def start(*argv):
        one = fill.Filler(str(tmp_path))
        one.process = subprocess.Popen(argv, start_new_session=True)
        started.append(one)
        return one

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_a_copy_that_has_ended_ends_the_fill_though_its_daemon_waits_on(filling, copy, tmp_path):
    one, broke = filling("sleep", "60"), []
    one.watch(copy(0), lambda: broke.append(True))
    assert one.wait()["code"] == -9
    assert not broke  # an empty group is not frozen: what cleans up would find it so


def test_its_twin_that_lives_waits_for_the_daemon(filling, copy):
    one = filling("sleep", "1.2")
    one.watch(copy(1), lambda: None)
    assert one.wait()["code"] == 0


def test_a_copy_that_may_not_run_yet_is_no_ended_one(filling, copy):
    copy(0)
    assert filling("sleep", "1.2").wait()["code"] == 0


def test_a_daemon_that_dies_under_a_living_copy_has_failed(filling, copy):
    one = filling("false")
    one.watch(copy(1), lambda: None)
    with pytest.raises(OpError, match="ended with 1"):
        one.wait()
