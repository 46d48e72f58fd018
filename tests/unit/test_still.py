"""A freeze that finds a task in vfork(2) is made anew; CRIU cannot seize such a task."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup, still
from reberth.node.system import procs

pytestmark = pytest.mark.skipif(os.getuid() != 0 or not cgroup.mount_point(), reason="needs root and cgroup v2")
# posix_spawn(3) is a vfork: the child opens the FIFO before execve(2), and waits there for whoever writes.
SPAWNS = """
import os, sys, threading, time
action = [(os.POSIX_SPAWN_OPEN, 5, sys.argv[1], os.O_RDONLY, 0)]
def start():
    os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, file_actions=action)
print("up", flush=True)  # before: Python holds its lock while it spawns
if sys.argv[2] == "thread":
    threading.Thread(target=start).start()
else:
    start()
time.sleep(60)
"""


@pytest.fixture
def group():
    path = os.path.join(cgroup.mount_point(), f"reberth-test-still-{os.getpid()}")
    cgroup.create(path)
    yield path
    cgroup.kill(path)
    cgroup.remove(path)


@pytest.fixture(params=["alone", "thread"])
def spawning(group, tmp_path, request):
    """A process that waits in vfork until the FIFO is opened, in a frozen cgroup."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    enter = "import os; open(os.environ['GROUP'], 'w').write('0');"
    words = [sys.executable, "-c", enter + SPAWNS, str(fifo), request.param]
    env = {**os.environ, "GROUP": f"{group}/cgroup.procs"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout.readline() == b"up\n"
        process.stdout.close()
        deadline = time.monotonic() + 20
        while len(cgroup.pids(group)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        cgroup.freeze(group)
        yield process, fifo
        cgroup.kill(group)


def test_who_waits_in_vfork_is_seen(group, spawning):
    process, _ = spawning
    deadline = time.monotonic() + 20
    while (found := still.unsettled(group)) is None or found[1] != "D":
        assert time.monotonic() < deadline
    assert found[0].pid == process.pid and cgroup.is_frozen(group)


def test_a_vfork_that_comes_to_its_end_is_let_go_on(group, spawning):
    process, fifo = spawning
    writer = os.open(fifo, os.O_RDWR)
    try:
        assert still.settle(group, 20.0) >= 1
    finally:
        os.close(writer)
    assert still.unsettled(group) is None and cgroup.is_frozen(group)
    assert [task.comm for task in procs.tree(process.pid)][1:] == ["sleep"]


def test_one_that_does_not_is_an_error(group, spawning):
    """The twin: nobody opens the FIFO."""
    process, _ = spawning
    with pytest.raises(OpError) as caught:
        still.settle(group, 0.3)
    assert caught.value.kind == "freeze" and str(process.pid) in caught.value.message


def test_a_frozen_tree_that_starts_nothing_stays_frozen(group):
    words = "import os, subprocess; open(os.environ['GROUP'], 'w').write('0'); subprocess.run(['sleep', '60'])"
    env = {**os.environ, "GROUP": f"{group}/cgroup.procs"}
    with subprocess.Popen([sys.executable, "-c", words], env=env) as process:
        deadline = time.monotonic() + 20
        while "sleep" not in [task.comm for task in procs.tree(process.pid)]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        cgroup.freeze(group)
        assert still.settle(group) == 0 and cgroup.is_frozen(group)
        cgroup.kill(group)
