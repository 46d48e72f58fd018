"""The one script in CRIU's configuration: its table of gates, strangers that pass, and the file as before."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reberth.node.criu import planted
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup

HOOK = '#!/bin/sh\necho "$CRTOOLS_SCRIPT_ACTION $PPID" >>"$0.asked"\nexit 7\n'
SOURCE, TARGET = ("pre-dump", "post-dump"), ("post-restore", "pre-resume")
LEAF = f"lxc.payload.planted-test-{os.getpid()}"
# Like criu: it runs the script and ends with it.
CRIU = "import subprocess, sys; sys.exit(subprocess.call([sys.argv[1]]))"


@pytest.fixture
def place(tmp_path, monkeypatch):
    for name, path in (("CONFIG", "etc/default.conf"), ("SCRIPT", "etc/gate"), ("TABLE", "run/gates")):
        monkeypatch.setattr(planted, name, str(tmp_path / path))
    return tmp_path


@pytest.fixture
def init():
    """The first process of a container: one task in a cgroup that is named as LEAF."""
    if os.getuid() != 0 or not cgroup.mount_point():
        pytest.skip("needs root and cgroup v2")
    path = os.path.join(cgroup.mount_point(), LEAF)
    os.makedirs(path, exist_ok=True)
    with subprocess.Popen(["sleep", "60"]) as task:
        cgroup.enter(path, task.pid)
        yield task.pid
        task.kill()
    os.rmdir(path)


def hook(place, name="r1"):
    """The script of a run, which says 7."""
    path = place / name / "gate.hook"
    path.parent.mkdir()
    path.write_text(HOOK)
    path.chmod(0o755)
    return str(path)


def asked(path):
    told = Path(f"{path}.asked")
    return told.read_text() if told.exists() else ""


def criu(action, init=0, **more):
    words = {"CRTOOLS_SCRIPT_ACTION": action, "CRTOOLS_INIT_PID": str(init or os.getpid()), **more}
    done = subprocess.run([sys.executable, "-c", CRIU, planted.SCRIPT], env={**os.environ, **words}, timeout=20)
    return done.returncode


def config():
    with open(planted.CONFIG, "rb") as file:
        return file.read()


@pytest.mark.parametrize(("role", "actions"), [("source", SOURCE), ("target", TARGET)])
def test_the_criu_of_the_container_comes_to_its_run(place, init, role, actions):
    path = hook(place)
    planted.plant(path, role, LEAF)
    others = TARGET if role == "source" else SOURCE
    assert [criu(action, init) for action in actions] == [7, 7] and [criu(action, init) for action in others] == [0, 0]
    assert asked(path).split()[::2] == list(actions)


@pytest.mark.parametrize("action", [*SOURCE, *TARGET, "pre-restore", "network-unlock", "setup-namespaces", ""])
def test_a_stranger_leaves_at_once(place, action):
    path = hook(place)
    for role in ("source", "target"):
        planted.plant(path, role, "lxc.payload.c1", "c1")
    assert criu(action) == 0 and criu(action, init=2**22 + 1) == 0 and asked(path) == ""


def test_a_dump_of_one_process_of_the_container_is_a_strangers(place, init):
    """Somebody looks at a process in the container with criu, while the container is moved."""
    path = hook(place)
    planted.plant(path, "source", LEAF, root=1)
    assert criu("post-dump", init) == 0 and asked(path) == ""
    planted.plant(path, "source", LEAF, root=init)
    assert criu("post-dump", init) == 7


def test_many_gates_of_many_runs(place, init):
    """Each criu comes to its own; a run that ends takes nothing from another."""
    ours, other = hook(place, "r1"), hook(place, "r2")
    planted.plant(ours, "source", LEAF)
    planted.plant(other, "source", "lxc.payload.c2")
    assert config().count(b"action-script") == 1
    planted.pluck(other)
    assert config().count(b"action-script") == 1 and criu("pre-dump", init) == 7 and asked(other) == ""
    planted.pluck(ours)
    assert not os.path.exists(planted.CONFIG)


def test_the_path_stays_good_when_the_run_has_ended(place):
    """A criu reads the configuration once, and calls what it has read whenever it comes so far."""
    path = hook(place)
    planted.plant(path, "source", "lxc.payload.c1")
    planted.pluck(path)
    os.rename(place / "r1", place / "ended")
    assert [criu(action) for action in (*SOURCE, *TARGET, "pre-restore")] == [0] * 5


def test_after_the_end_of_the_run_only_a_criu_of_before_is_refused(place, init):
    """A copy that comes so late would be a second one; the next move by the daemon alone is not ours."""
    path = hook(place)
    planted.plant(path, "target", LEAF)
    program = "import subprocess, sys; input(); sys.exit(subprocess.call([sys.argv[1]]))"
    env = {**os.environ, "CRTOOLS_SCRIPT_ACTION": "post-restore", "CRTOOLS_INIT_PID": str(init)}
    words = [sys.executable, "-c", program, planted.SCRIPT]
    with subprocess.Popen(words, env=env, stdin=subprocess.PIPE) as early:
        planted.pluck(path)
        os.unlink(path)
        early.communicate(b"\n", timeout=20)
    assert early.returncode == 1
    time.sleep(0.02)
    assert criu("post-restore", init) == 0


def test_a_run_whose_directory_is_lost_vetoes_until_the_next_one_comes(place, init):
    path, later = hook(place), hook(place, "r2")
    planted.plant(path, "source", LEAF)
    os.unlink(path)
    assert criu("post-dump", init) != 0
    planted.plant(later, "source", "lxc.payload.c2")
    time.sleep(0.02)  # the clock of a process's start has steps of 10 ms
    assert criu("post-dump", init) == 0
    planted.pluck(later)
    assert not os.path.exists(planted.CONFIG)


def test_what_was_closed_a_day_ago_is_forgotten(place, init, monkeypatch):
    path = hook(place)
    planted.plant(path, "source", LEAF)
    planted.pluck(path)
    monkeypatch.setattr(planted, "KEPT_S", -10)
    planted.pluck("nothing")
    assert planted._entries() == []


ADMINS = [b"", b"log-level 4\n", b"log-level 4", b"# caf\xe9 \xff\n", b"x" * 3_000_000 + b"\n", b"\n\n"]


@pytest.mark.parametrize("before", [None, *ADMINS])
def test_the_configuration_is_as_before(place, before):
    """Byte for byte, with its mode, whatever its size and encoding; and one that was not there is not there."""
    if before is not None:
        (place / "etc").mkdir()
        (place / "etc/default.conf").write_bytes(before)
        (place / "etc/default.conf").chmod(0o640)
    paths = [hook(place, name) for name in ("r1", "r2")]
    for path in paths:
        planted.plant(path, "target", f"lxc.payload.{path[-12]}")
        planted.plant(path, "target", f"lxc.payload.{path[-12]}")
    assert f"\naction-script {planted.SCRIPT}\n".encode() in b"\n" + config()
    assert before is None or config().startswith(before)
    for path in (paths[0], *paths):
        planted.pluck(path)
    assert os.path.exists(planted.CONFIG) is (before is not None)
    if before is not None:
        assert config() == before and os.stat(planted.CONFIG).st_mode & 0o777 == 0o640
    assert sorted(os.listdir(place / "etc")) == (["default.conf"] if before is not None else []) + ["gate"]


@pytest.mark.parametrize("before", [None, *ADMINS[:3]])
def test_what_is_written_there_meanwhile_stays(place, before):
    if before is not None:
        (place / "etc").mkdir()
        (place / "etc/default.conf").write_bytes(before)
    planted.plant(path := hook(place), "source", "lxc.payload.c1")
    with open(planted.CONFIG, "ab") as file:
        file.write(b"tcp-close\n")
    planted.pluck(path)
    assert config() == (before or b"") + b"tcp-close\n"


def test_a_link_stays_a_link(place):
    (place / "etc").mkdir()
    (place / "own.conf").write_bytes(b"log-level 4\n")
    (place / "etc/default.conf").symlink_to("../own.conf")
    planted.plant(path := hook(place), "source", "lxc.payload.c1")
    assert b"action-script" in (place / "own.conf").read_bytes()
    planted.pluck(path)
    assert (place / "etc/default.conf").is_symlink() and (place / "own.conf").read_bytes() == b"log-level 4\n"


def test_after_a_restart_of_the_node_the_line_goes_with_the_run(place):
    """The table is gone, the line is there: the script lets all pass, and the run's undo takes the line."""
    planted.plant(path := hook(place), "source", "lxc.payload.c1")
    subprocess.run(["rm", "-r", planted.TABLE], check=True)
    assert [criu(action) for action in (*SOURCE, *TARGET, "pre-restore")] == [0] * 5
    planted.pluck(path)
    assert not os.path.exists(planted.CONFIG)


def test_a_script_that_cannot_be_executed_is_not_named(place):
    """Each criu of the node would fail: on a filesystem that is mounted noexec, for one."""
    (place / "etc").mkdir()
    (place / "etc/gate").write_text(planted.text())
    real = planted.spawn.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted.spawn, "run", lambda *words, **more: real(["/bin/false"], **more))
        with pytest.raises(OpError, match="cannot be executed") as caught:
            planted.plant(hook(place), "source", "lxc.payload.c1")
    assert caught.value.kind == "tool-failed" and "noexec" in caught.value.hint and not os.path.exists(planted.CONFIG)


def test_a_script_that_somebody_has_changed_is_written_anew(place):
    planted.plant(path := hook(place), "source", "lxc.payload.c1")
    with open(planted.SCRIPT, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\nexit 1\n")
    os.chmod(planted.SCRIPT, 0o700)
    planted.plant(path, "source", "lxc.payload.c2")
    assert criu("pre-dump") == 0 and os.stat(planted.SCRIPT).st_mode & 0o777 == 0o755


def test_many_helpers_at_once(place):
    """They plant and pluck beside one another, and the file is whole all the time."""
    (place / "etc").mkdir()
    (place / "etc/default.conf").write_bytes(b"log-level 4")
    paths = [hook(place, f"r{number}") for number in range(6)]
    failed = []

    def one(path):
        try:
            for _ in range(3):
                planted.plant(path, "source", os.path.basename(os.path.dirname(path)))
                assert config().startswith(b"log-level 4\n") and config().count(b"action-script") == 1
                planted.pluck(path)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and config() == b"log-level 4"


def test_a_script_that_changes_gets_another_number():
    """A criu may hold the path of the one before for days."""
    known = {"1": "b959a417f9c03db2e75d06de5a4d6d177dadf23bd9b1e0cc4cf20e2752f46ee6"}
    number = planted.SCRIPT.rpartition(".")[2]
    assert planted.TABLE.endswith(f".{number}")
    assert hashlib.sha256(planted.text().encode()).hexdigest() == known[number]


def test_any_user_may_execute_it(place):
    """A criu without root reads the same configuration; it must not fail for it."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    planted.plant(hook(place), "source", "lxc.payload.c1")
    os.chmod(planted.TABLE, 0o700)
    for part in [*[*place.parents][:-2], place]:
        os.chmod(part, os.stat(part).st_mode | 0o011)
    env = {"CRTOOLS_SCRIPT_ACTION": "post-dump", "CRTOOLS_INIT_PID": "1", "PATH": "/usr/bin:/bin"}
    assert subprocess.run([planted.SCRIPT], env=env, user=65534, timeout=20).returncode == 0
