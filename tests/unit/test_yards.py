"""What a killed CRIU leaves is taken away, and nothing that somebody else has mounted is ever walked into."""

from __future__ import annotations

import os
import subprocess

import pytest

from reberth.node.criu import leftovers
from reberth.node.errors import OpError
from reberth.node.runs import run
from reberth.node.runs.run import Run

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="mounts need root")


@pytest.fixture
def mount():
    """Mounts a tmpfs with a file in it."""
    mounted = []

    def begin(path):
        path.mkdir(parents=True)
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(path)]).returncode:
            pytest.skip("nothing can be mounted here")
        mounted.append(path)
        (path / "precious").write_text("x")
        return path

    yield begin
    for path in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(path)], stderr=subprocess.DEVNULL)


def test_mounts_of_a_killed_criu_are_taken_away_first(tmp_path, monkeypatch, mount):
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    one = Run.open("r1", "target", "criu/7")
    images = tmp_path / "images"
    one.push_undo("always", "rmtree", path=str(images))
    mount(mount(images / ".criu.cgyard.abc") / "unified")
    mount(images / "criu-root")
    assert len(leftovers.mounts_below(str(images))) == 3
    assert one.undo("always") == []
    assert not images.exists() and leftovers.mounts_below(str(images)) == []


def test_the_mount_of_somebody_else_stays(tmp_path, monkeypatch, mount):
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    one = Run.open("r1", "target", "criu/7")
    images = tmp_path / "images"
    one.push_undo("always", "rmtree", path=str(images))
    theirs = mount(images / "data")
    assert "is a mount" in one.undo("always")[0]
    assert (theirs / "precious").read_text() == "x"
    with pytest.raises(OpError):
        leftovers.clear(str(images))


def test_only_new_roots_go_and_none_while_a_criu_works(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "ROOTS", str(tmp_path / ".criu.mntns.*"))
    old, new = tmp_path / ".criu.mntns.old", tmp_path / ".criu.mntns.new"
    old.mkdir()
    known = leftovers.roots()
    new.mkdir()
    task = leftovers.procs.task(os.getpid())
    monkeypatch.setattr(leftovers.procs, "all_tasks", lambda: [task._replace(comm="criu")])
    leftovers.sweep(known)
    assert new.is_dir()
    monkeypatch.setattr(leftovers.procs, "all_tasks", lambda: [task])
    leftovers.sweep(known)
    assert old.is_dir() and not new.exists()
