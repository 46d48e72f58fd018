"""S5: images lie in a directory of a random name that only root may enter, behind no link, and go at the end."""

from __future__ import annotations

import os
import stat
from types import SimpleNamespace

import pytest

from reberth.node.errors import OpError
from reberth.node.operations import table
from reberth.node.runs import run
from reberth.node.tree.receive import recv_tree


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    """A helper with an open run, whose places for images are folders of the test."""
    places = {place: tmp_path / place.strip("/").replace("/", "-") for place in ("/dev/shm", "/run", "/var/lib")}
    for path in places.values():
        path.mkdir()
    pushed = []
    end = SimpleNamespace(run=SimpleNamespace(id="r1", push_undo=lambda on, do, **data: pushed.append((on, do, data))))
    real_join = os.path.join
    join = lambda first, *rest: real_join(str(places.get(first, first)), *rest)  # noqa: E731
    monkeypatch.setattr(table.os.path, "join", join)
    return SimpleNamespace(end=end, pushed=pushed, places=places)


def test_the_directory_is_private_random_and_journaled_first(daemon):
    found = [table.workdir(daemon, None, need_bytes=1)["path"] for _ in range(2)]
    assert found[0] != found[1]
    for path in found:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        assert ("always", "rmtree", {"path": path}) in daemon.pushed


@pytest.mark.parametrize("kind", ["link", "folder", "file", "pipe"])
def test_s5_a_name_that_is_there_already_is_not_used(daemon, monkeypatch, kind):
    monkeypatch.setattr(table.os, "urandom", lambda count: b"\0" * count)
    trap = daemon.places["/dev/shm"] / f"reberth-r1-images-{'00' * 6}"
    outside = daemon.places["/run"] / "outside"
    outside.mkdir()
    plant = {"link": lambda: trap.symlink_to(outside), "folder": trap.mkdir, "file": trap.touch}
    plant.get(kind, lambda: os.mkfifo(trap))()
    path = table.workdir(daemon, None, need_bytes=1)["path"]
    assert os.path.dirname(path) == str(daemon.places["/run"])  # the next place
    assert list(outside.iterdir()) == []


def as_nobody(action) -> int:
    """The exit status of a process of another user that does this: 0 done, 13 not permitted."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            action()
        except PermissionError:
            os._exit(13)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
def test_s5_another_user_can_neither_list_nor_read(daemon):
    path = table.workdir(daemon, None, need_bytes=1)["path"]
    with open(f"{path}/pages-1.img", "w") as file:  # 0644, as criu writes it
        file.write("secret")
    os.chmod(f"{path}/pages-1.img", 0o644)
    above = os.path.dirname(path)
    while "pytest-of-" in above:  # what is above is open, as /dev/shm is: the directory alone protects
        os.chmod(above, 0o755)
        above = os.path.dirname(above)
    assert as_nobody(lambda: os.listdir(path)) == 13
    assert as_nobody(lambda: open(f"{path}/pages-1.img").close()) == 13
    os.chmod(path, 0o755)  # the twin
    assert as_nobody(lambda: open(f"{path}/pages-1.img").close()) == 0


@pytest.mark.parametrize("kind", ["link", "loose", "file"])
def test_the_state_directory_must_be_our_own(tmp_path, monkeypatch, kind):
    state = tmp_path / "state"
    monkeypatch.setattr(run, "STATE", str(state))
    if kind == "link":
        (tmp_path / "elsewhere" / "ended").mkdir(parents=True)
        state.symlink_to(tmp_path / "elsewhere")
    elif kind == "loose":
        state.mkdir()
        state.chmod(0o777)
    else:
        state.write_text("x")
    with pytest.raises((OpError, OSError)):
        run.state_dir()


def test_a_good_state_directory_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    assert run.state_dir() == str(tmp_path / "state")
    assert stat.S_IMODE(os.stat(tmp_path / "state").st_mode) == 0o700


def test_received_images_are_for_their_owner_alone(tmp_path, record):
    source = tmp_path / "source"
    source.mkdir()
    (source / "pages-1.img").write_text("secret")
    (source / "pages-1.img").chmod(0o644)
    (tmp_path / "stream").write_bytes(record(source, flat=True))
    fd = os.open(tmp_path / "stream", os.O_RDONLY)
    try:
        recv_tree(str(tmp_path / "target"), fd, flat=True)
    finally:
        os.close(fd)
    assert stat.S_IMODE(os.stat(tmp_path / "target").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(tmp_path / "target/pages-1.img").st_mode) == 0o600


@pytest.fixture
def record():
    from reberth.node.tree.send import send_tree

    def record(source, **options):
        reader, writer = os.pipe()
        send_tree(str(source), writer, **options)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            return file.read()

    return record
