"""Processes as /proc tells them, on real children of this test."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from reberth.node.system import procs

NESTED = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"])
time.sleep(60)
"""


@pytest.fixture
def family():
    """A process with one child, both up."""
    with subprocess.Popen([sys.executable, "-c", NESTED], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout.readline() == b"up\n"
        yield parent
        for task in reversed(procs.tree(parent.pid)):
            os.kill(task.pid, 9)


def test_a_tree_has_the_parent_first(family):
    tree = procs.tree(family.pid)
    assert tree[0].pid == family.pid
    assert len(tree) == 2
    assert tree[1].ppid == family.pid
    assert (tree[0].sid, tree[0].pgid) == (family.pid, family.pid)
    assert procs.ancestors(tree[1].pid, os.getpid()) == [tree[1].pid, family.pid]
    assert procs.memory_bytes(family.pid) > 1 << 20
    assert procs.tree(2**22 + 1) == []


def test_a_pid_with_another_start_is_another_process(family):
    task = procs.task(family.pid)
    assert procs.alive(family.pid, task.start_ticks)
    assert procs.alive(family.pid)
    assert not procs.alive(family.pid, task.start_ticks + 1)


def test_a_zombie_does_not_run():
    with subprocess.Popen(["true"]) as process:
        deadline = time.monotonic() + 10
        while procs.task(process.pid).state != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert procs.task(process.pid).state == "Z"
        assert not procs.alive(process.pid)
    assert procs.task(process.pid) is None


@pytest.mark.parametrize("name", [b"a) b (c", b") Z 1 1 1", b"\xff\xfe\n\x1b[31m"])
def test_a_hostile_name_does_not_shift_the_columns(name):
    code = (
        "import ctypes, sys, time; ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0)\n"
        "print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, name.hex()], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        task = procs.task(process.pid)
        process.kill()
    assert task.ppid == os.getpid()
    assert task.state in "RSD"
    assert task.threads == 1
    assert task.comm.encode("latin-1", "replace")[:1] == name[:1].decode("utf-8", "backslashreplace").encode()[:1]


def test_links_and_capabilities():
    assert procs.link("/proc/self/exe") == os.path.realpath("/proc/self/exe")
    assert procs.link("/proc/self/none") == ""
    assert procs.memory_bytes(2**22 + 1) == 0
    assert procs.capabilities() >= 0
