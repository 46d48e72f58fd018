"""The guardian: it holds what the daemon holds, also what comes later, and outlives both its helper and the daemon."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import pytest

from reberth.node.pages import uffd_holder as guardian
from reberth.node.pages.fill import Guardian

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}.get(os.uname().machine, 0)
DAEMON = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
for _ in sys.stdin:
    print(libc.syscall(int(sys.argv[1]), 0o2000000 | 1), flush=True)
"""


@pytest.fixture
def daemon():
    """A process that makes a userfaultfd for every line; skipped where it cannot."""
    fd = ctypes.CDLL(None, use_errno=True).syscall(SYS_USERFAULTFD, 0o2000000 | 1)
    if fd < 0:
        pytest.skip("no userfaultfd here, or not for this user")
    os.close(fd)
    argv = [sys.executable, "-c", DAEMON, str(SYS_USERFAULTFD)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    yield process
    process.kill()
    process.communicate()


def make(daemon: subprocess.Popen[str]) -> None:
    daemon.stdin.write("\n")
    assert int(daemon.stdout.readline()) > 2


def held(guardian: Guardian) -> int:
    folder = f"/proc/{guardian.process.pid}/fd"
    return sum(os.readlink(f"{folder}/{name}") == "anon_inode:[userfaultfd]" for name in os.listdir(folder))


def wait_for(condition) -> bool:
    end_s = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


def test_looking_leaves_a_slow_node_its_processor(monkeypatch):
    """One look at the daemon's descriptors costs an emulated node what a hundred cost others; pages need it more."""
    now_s, cost_s = [0.0], [0.0]
    one = guardian.Guardian()
    one.pid, one.pidfd = os.getpid(), os.pidfd_open(os.getpid())
    monkeypatch.setattr(guardian.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(guardian, "copy_new", lambda *_: now_s.__setitem__(0, now_s[0] + cost_s[0]))
    for cost_s[0], rest_s in ((0.0001, guardian.POLL_S), (0.005, 0.1)):
        assert not one.look()
        assert one.rest_s == pytest.approx(rest_s)
    os.close(one.pidfd)


def test_it_holds_what_the_daemon_has_and_gets(daemon):
    guardian = Guardian()
    make(daemon)
    assert guardian.say(f"guard {daemon.pid}") == 1
    make(daemon)
    assert wait_for(lambda: held(guardian) == 2)
    daemon.kill()
    daemon.wait()
    assert held(guardian) == 2
    guardian.release()
    assert guardian.process.returncode == 0


def test_alone_it_freezes_the_copy_of_a_dead_daemon_and_holds(daemon, tmp_path):
    (tmp_path / "cgroup.events").write_text("populated 1\n")
    freeze = tmp_path / "cgroup.freeze"
    freeze.write_text("0")
    guardian = Guardian()
    make(daemon)
    guardian.say(f"guard {daemon.pid}")
    guardian.say(f"copy {tmp_path}")
    guardian.process.stdin.close()  # the helper is gone
    time.sleep(0.1)
    assert freeze.read_text() == "0"
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    assert wait_for(lambda: freeze.read_text() == "1")
    assert held(guardian) == 1
    (tmp_path / "cgroup.events").write_text("populated 0\n")
    assert guardian.process.wait(10) == 0
    guardian.release()


def test_before_there_is_a_copy_it_ends_with_its_helper():
    guardian = Guardian()
    guardian.process.stdin.close()
    assert guardian.process.wait(10) == 0
    assert guardian.say("copy /nowhere") == 0
    guardian.release()
