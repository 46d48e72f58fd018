"""The guardian: left alone it freezes the copy of a dead daemon, and ends those that hold when the copy has ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from reberth.node.pages import shared_table
from reberth.node.pages.fill import Guardian
from reberth.node.system import procs


@pytest.fixture
def daemon():
    """Any process, with two beside it that share its open files."""
    words = shared_table.stopped([sys.executable, "-c", "input()"])
    process = subprocess.Popen(words, stdin=subprocess.PIPE)
    holders = shared_table.begin(process, 2, file_bytes=1 << 16)
    yield process, holders
    process.kill()
    process.communicate()
    for one in holders:
        shared_table.end(one)


def wait_for(condition) -> bool:
    end_s = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


def guard(guardian: Guardian, daemon, holders) -> int:
    return guardian.say(" ".join(["guard", str(daemon.pid), *(str(one.pid) for one in holders)]))


def test_it_answers_how_many_address_spaces_are_held(daemon):
    guardian = Guardian()
    assert guard(guardian, *daemon) == 0  # no userfaultfd among them
    guardian.release()
    assert guardian.process.returncode == 0
    assert all(procs.alive(*one) for one in daemon[1])


def test_alone_it_freezes_the_copy_of_a_dead_daemon_and_ends_with_the_copy(daemon, tmp_path):
    (tmp_path / "cgroup.events").write_text("populated 1\n")
    freeze = tmp_path / "cgroup.freeze"
    freeze.write_text("0")
    process, holders = daemon
    guardian = Guardian()
    guard(guardian, process, holders)
    guardian.say(f"copy {tmp_path}")
    guardian.process.stdin.close()  # the helper is gone
    time.sleep(0.3)
    assert freeze.read_text() == "0"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_for(lambda: freeze.read_text() == "1")
    assert all(procs.alive(*one) for one in holders)
    (tmp_path / "cgroup.events").write_text("populated 0\n")
    assert guardian.process.wait(10) == 0
    assert wait_for(lambda: not any(procs.alive(*one) for one in holders))
    guardian.release()


def test_before_there_is_a_copy_it_ends_with_its_helper():
    guardian = Guardian()
    guardian.process.stdin.close()
    assert guardian.process.wait(10) == 0
    assert guardian.say("copy /nowhere") == 0
    guardian.release()
