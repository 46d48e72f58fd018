"""The directory of a killed helper, where a key may lie, goes with the next helper; that of a live one stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reberth.connect import boot
from reberth.connect.helper import HelperShell
from reberth.node.daemon import stale
from reberth.node.system import procs
from reberth_hooks import Node, Route


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts helpers with a base of their own, whoever runs the tests; answers shell, pid and directory."""
    monkeypatch.setattr(boot, "START", boot.START.replace(b'"/run/reberth" if uid == 0 else ', b""))
    shells = []
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    route = Route(env={**env, "XDG_RUNTIME_DIR": str(tmp_path)})

    def begin() -> tuple[int, Path]:
        shell = HelperShell(Node("here", connector="local"), route)
        shells.append(shell)
        return int(shell.run(["sh", "-c", "echo $PPID"]).out), Path(shell.call("socket")).parent

    yield begin
    for shell in shells:
        shell.close()


def until(what) -> bool:
    end_s = time.monotonic() + 15
    while not what() and time.monotonic() < end_s:
        time.sleep(0.02)
    return bool(what())


def age(path: Path) -> None:
    os.utime(path, (time.time() - 60,) * 2)


def test_a_killed_helpers_directory_goes_with_the_next_one(start):
    pid, dead = start()
    (dead / "direct.key").write_text("secret")
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: not procs.alive(pid))
    assert dead.exists()
    age(dead)
    _, mine = start()
    assert until(lambda: not dead.exists())
    assert mine.exists()


def test_those_of_live_young_and_unfinished_ones_stay(start, tmp_path):
    _, live = start()
    base = live.parent
    young, empty, link = base / "h-young", base / "h-empty", base / "h-link"
    for folder in (young, empty):
        folder.mkdir()
    (young / "helper.zip").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "helper.zip").touch()
    link.symlink_to(tmp_path / "elsewhere")
    for folder in (live, empty, tmp_path / "elsewhere"):
        age(folder)
    stale.sweep(str(base / "h-mine"))
    assert all(path.exists() for path in (live / "ctl", young, empty, link, tmp_path / "elsewhere" / "helper.zip"))
    age(young)
    stale.sweep(str(base / "h-mine"))  # the twin
    assert not young.exists()


@pytest.mark.parametrize(("uid", "asked"), [(0, False), (1000, True)])
def test_a_helper_of_root_tries_nothing_in_tmp(uid, asked):
    """Asked for its directory, tempfile writes a file into it: one that is killed just then would leave that."""
    played = (
        "import os, tempfile\n"
        "tempfile.gettempdir = lambda: os._exit(7)\n"
        f"os.getuid = lambda: {uid}\n"
        "os.mkdir = lambda *words: os._exit(0)\n"
    )
    argv = [sys.executable, "-I", "-c", played + boot.BOOT, "control"]
    done = subprocess.run(argv, input=boot.program(), stdout=subprocess.DEVNULL, env={}, check=False)
    assert done.returncode == (7 if asked else 0)


# What is there of a run whose journal is lost


@pytest.fixture
def workload_cgroup():
    """A cgroup with the name of a run, and a process in it."""
    from reberth.node.freeze import cgroup

    mount = cgroup.mount_point()
    if os.getuid() != 0 or not mount or not os.access(os.path.join(mount, "cgroup.procs"), os.W_OK):
        pytest.skip("needs cgroups of its own")
    path = os.path.join(mount, f"reberth-lost-{os.getpid()}")
    process = subprocess.Popen(["sleep", "60"])
    cgroup.create(path)
    cgroup.enter(path, process.pid)
    yield path, process
    process.kill()
    process.wait()
    cgroup.remove(path)


def test_a_lost_run_is_told_by_what_its_tasks_do(workload_cgroup):
    from reberth.node.freeze import cgroup
    from reberth.node.runs import remains

    path, process = workload_cgroup
    run_id = os.path.basename(path).removeprefix("reberth-")
    expected = {"cgroup": path, "tasks": 1, "pids": [process.pid]}
    assert remains.look(run_id, []) == {"remains": "running", **expected}
    cgroup.freeze(path)
    assert remains.look(run_id, [path, "/etc", "/nowhere"]) == {"remains": "frozen", **expected}
    assert remains.settle(run_id, [], "thaw") == {"remains": "running", **expected}
    cgroup.freeze(path)
    assert remains.settle(run_id, [], "kill")["remains"] == ""
    assert process.wait(5) == -9 and not os.path.exists(path)
    assert remains.look(run_id, [])["remains"] == ""


def test_a_cgroup_that_is_not_the_runs_is_left_alone(workload_cgroup):
    from reberth.node.runs import remains

    _, process = workload_cgroup
    assert remains.settle("another", [], "kill")["remains"] == ""
    assert process.poll() is None
