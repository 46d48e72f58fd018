"""A node without Python, and checkpoints that are carried to it; the node is this machine, reached without a helper."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from reberth.archive import directory, remote
from reberth.archive.remote import Carrier, Place, parse_place
from reberth.connect.plain import PlainShell, require_helper
from reberth_hooks import (
    CommandError,
    ConnectionLostError,
    HelperError,
    Node,
    RefusedError,
    Route,
    UnreachableError,
    UntrustedError,
    UsageError,
)

NODE = Node("phone", connector="android")
HERE = Route(hint="is it there?", helper=False)


@pytest.fixture
def shell():
    return PlainShell(NODE, HERE)


def test_it_says_what_it_is_and_what_it_lacks(shell):
    assert shell.call("hello")["hostname"] == os.uname().nodename
    assert shell.facts["uid"] == os.getuid()
    assert shell.facts["lacks"][0] == "Python"
    with pytest.raises(RefusedError, match="it lacks Python"):
        require_helper(shell)


def test_what_needs_a_helper_is_refused_by_name(shell):
    for ask in (lambda: shell.call("dump"), lambda: shell.begin("tree_send", path="/")):
        with pytest.raises(HelperError, match="no python3"):
            ask()


def test_it_runs_reads_and_measures(shell, tmp_path):
    odd = tmp_path / "it's\na file"
    odd.write_text("text")
    assert shell.call("read", path=str(odd)) == "text"
    assert shell.run(["cat"], stdin="in").out == "in"
    assert shell.call("run", argv=["sh", "-c", "exit 7"])["code"] == 7
    with pytest.raises(CommandError):
        shell.run(["false"])
    space = shell.call("space", paths=[f"{tmp_path}/not/there/yet"])
    assert abs(next(iter(space.values())) - shutil.disk_usage(tmp_path).free) < 1 << 30


@pytest.mark.parametrize(
    ("said", "error"), [("Host key verification failed.", UntrustedError), ("Connection refused", UnreachableError)]
)
def test_a_connection_that_fails_says_how(said, error):
    route = Route(control=("sh", "-c", f"echo '{said}' >&2; exit 255", "sh"), helper=False, hint="try")
    with pytest.raises(error) as caught:
        PlainShell(NODE, route)
    assert said in caught.value.tail


def test_kernel_options_come_from_the_devices_own_configuration(tmp_path, monkeypatch):
    """A fake zcat, since the test's own kernel may have any configuration, or none that can be read."""
    if not Path("/proc/config.gz").exists():
        pytest.skip("this kernel shows no /proc/config.gz")
    (tmp_path / "zcat").write_text(
        "#!/bin/sh\nprintf 'CONFIG_NAMESPACES=y\\n# CONFIG_CHECKPOINT_RESTORE is not set\\n'\n"
    )
    (tmp_path / "zcat").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    [said] = [word for word in PlainShell(NODE, HERE).facts["lacks"] if "kernel" in word]
    assert "CONFIG_CHECKPOINT_RESTORE" in said and "CONFIG_NAMESPACES" not in said


# Places


@pytest.mark.parametrize("text", ["./dir", "/abs", "phone", "phone:relative", "other:/dir", "a:b/c", ":/x"])
def test_what_is_a_directory_of_this_machine(text):
    assert parse_place(text, ["phone"]) is None


def test_what_is_a_place_of_a_node():
    assert parse_place("phone:/data/it's", ["phone"]) == Place("phone", "/data/it's")
    for text in ("phone:/", "phone:/data/../etc"):
        with pytest.raises(UsageError):
            parse_place(text, ["phone"])


@pytest.fixture
def carrier():
    return Carrier(NODE, HERE)


def test_bytes_go_there_and_back(carrier, tmp_path):
    data = os.urandom(3 << 20)
    there = str(tmp_path / "it's there; touch pwned")
    with (tmp_path / "out").open("w+b") as out:
        out.write(data)
        out.flush()
        carrier.send(out, there)
    with (tmp_path / "back").open("w+b") as back:
        carrier.fetch(there, back)
    assert (tmp_path / "back").read_bytes() == data
    assert carrier.digest(there) == subprocess.run(
        ["sha256sum", there], capture_output=True, text=True, check=True
    ).stdout.split()[0].lstrip("\\")
    assert Path(there).stat().st_mode & 0o777 == 0o600


def test_a_place_that_cannot_take_it_says_so(carrier, tmp_path):
    with (tmp_path / "out").open("w+b") as out, pytest.raises(CommandError) as caught:
        carrier.send(out, "/dev/null/impossible")
    assert caught.value.tail
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UsageError, match="not empty"):
        remote.new_place(Place("phone", str(tmp_path / "full")), carrier)
    remote.new_place(Place("phone", str(tmp_path / "new/er")), carrier)
    assert (tmp_path / "new/er").is_dir()


def test_a_stall_ends_the_wait(monkeypatch):
    monkeypatch.setattr(remote, "STALL_S", 0.1)
    process = subprocess.Popen(["sleep", "60"])
    with pytest.raises(ConnectionLostError, match="no byte"):
        remote.wait_moving(process, lambda: 0, lambda: None)
    assert process.wait(5) != 0


@pytest.fixture
def kept(tmp_path, monkeypatch, carrier):
    """A checkpoint in a place, carried there as checkpoint does."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    here = tmp_path / "here/files"
    (here / "bundle").mkdir(parents=True)
    (here / "bundle/program").write_bytes(b"\x7fELF")
    (here / "bundle/program").chmod(0o4755)
    (here / "bundle/link").symlink_to("program")
    place = Place("phone", str(tmp_path / "there"))
    remote.new_place(place, carrier)
    far = remote.FarDirectory.__new__(remote.FarDirectory)  # without a helper: nothing of it is asked here
    far.path, far.place, far.carrier, far.stranded = here, place, carrier, None
    far.state, far.kept, far.about, far.on_wait = {}, {}, lambda: {"plan": "one"}, lambda: None
    far.carrier.on_wait = lambda: None
    far._op_restore()
    return far


def test_it_has_its_name_only_after_permit(kept, carrier, tmp_path):
    with pytest.raises(UsageError, match="no checkpoint"):
        remote.fetch(kept.place, carrier, tmp_path / "back")
    kept._op_decide("PERMIT")
    (tmp_path / "back").mkdir()
    remote.fetch(kept.place, carrier, tmp_path / "back")
    assert directory.read_signed(tmp_path / "back")["plan"] == "one"
    assert (tmp_path / "back/bundle/program").stat().st_mode & 0o7777 == 0o4755
    assert (tmp_path / "back/bundle/link").readlink() == Path("program")


def test_abort_leaves_nothing_there(kept):
    kept._op_decide("ABORT")
    assert not Path(kept.place.path).exists()


@pytest.mark.parametrize("spoil", ["archive", "document"])
def test_what_was_changed_there_is_never_unpacked(kept, carrier, tmp_path, spoil):
    kept._op_decide("PERMIT")
    path = Path(kept.place.file(remote.ARCHIVE if spoil == "archive" else directory.SIGNED))
    data = bytearray(path.read_bytes())
    data[-20 if spoil == "archive" else data.index(b"one")] ^= 1
    path.write_bytes(data)
    (tmp_path / "back").mkdir()
    with pytest.raises(RefusedError):
        remote.fetch(kept.place, carrier, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


def test_when_the_last_step_fails_the_copy_here_counts(kept, carrier, tmp_path):
    shutil.rmtree(kept.place.path)
    kept._op_decide("PERMIT")
    assert kept.stranded is not None
    assert directory.read_signed(kept.path)["plan"] == "one"


def test_what_tar_says_is_passed_on(tmp_path):
    with pytest.raises(CommandError) as caught:
        remote.tar(["--extract", f"--directory={tmp_path}"], tmp_path / "missing", lambda: None)
    assert "missing" in caught.value.tail
