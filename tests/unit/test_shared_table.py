"""Who holds what criu's daemon holds: its death closes nothing, and what it closes itself is closed."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time

import pytest

from reberth.node.errors import OpError
from reberth.node.pages import shared_table
from reberth.node.system import procs

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}.get(os.uname().machine, 0)
# Registers memory and puts its userfaultfd into an epoll set; "close" closes it as criu does, without taking it out;
# "free" gives a page back in another thread, and says how many events epoll has then.
DAEMON = r"""
import ctypes, fcntl, mmap, os, select, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(int(sys.argv[1]), 0o2004000 | 1)
if fd < 0:
    sys.exit("no userfaultfd")
EVENT_REMOVE, MISSING = 1 << 3, 1
fcntl.ioctl(fd, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, EVENT_REMOVE, 0)))
memory = mmap.mmap(-1, 1 << 16, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(fd, 0xC020AA00, bytearray(struct.pack("QQQQ", place, 1 << 16, MISSING, 0)))
epoll = select.epoll()
epoll.register(fd, select.EPOLLIN)
print("ready", flush=True)
for line in sys.stdin:
    if line == "close\n":
        os.close(fd)
        print("closed", flush=True)
    else:
        give_back = lambda: libc.madvise(ctypes.c_void_p(place), 1 << 16, mmap.MADV_DONTNEED)
        threading.Thread(target=give_back, daemon=True).start()
        print(len(epoll.poll(1)), flush=True)
"""


def start(*words: str, holders: int = 2) -> tuple[subprocess.Popen[bytes], list[shared_table.Holder]]:
    process = subprocess.Popen(
        shared_table.stopped([sys.executable, *words]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        bufsize=0,
    )
    return process, shared_table.begin(process, holders, file_bytes=1 << 16)


@pytest.fixture
def daemon():
    """The daemon of above and its two holders; skipped where it cannot be."""
    process, holders = start("-c", DAEMON, str(SYS_USERFAULTFD))
    if process.stdout.readline() != b"ready\n":
        process.communicate()
        for one in holders:
            shared_table.end(one)
        pytest.skip("no userfaultfd here, or not for this user")
    yield process, holders
    process.kill()
    for one in holders:
        shared_table.end(one)
    process.communicate()


def ask(process: subprocess.Popen[bytes], word: bytes) -> bytes:
    process.stdin.write(word + b"\n")
    return process.stdout.readline().strip()


def test_what_a_killed_daemon_had_open_stays_open(daemon):
    process, holders = daemon
    os.killpg(process.pid, 9)
    process.wait()
    assert [shared_table.count(one.pid) for one in holders] == [1, 1]
    shared_table.end(holders[0])
    assert shared_table.count(holders[1].pid) == 1
    shared_table.end(holders[1])
    assert not any(procs.alive(*one) for one in holders)


def test_what_it_closes_itself_is_closed_and_its_epoll_forgets_it(daemon):
    process, holders = daemon
    assert ask(process, b"close") == b"closed"
    assert [shared_table.count(one.pid) for one in holders] == [0, 0]
    assert ask(process, b"free") == b"0"


def test_its_twin_with_a_copy_wakes_the_daemon_for_what_it_has_closed(daemon):
    """As it was until 2026-12-01: the daemon's record of it is freed by then, and nobody reads the event."""
    process, _ = daemon
    number = next(n for n in os.listdir(f"/proc/{process.pid}/fd") if is_userfaultfd(process.pid, n))
    pidfd = os.pidfd_open(process.pid)
    copy = procs.copy_fd(pidfd, int(number))
    try:
        assert ask(process, b"close") == b"closed"
        assert ask(process, b"free") == b"1"
    finally:
        os.close(copy)
        os.close(pidfd)


def is_userfaultfd(pid: int, name: str) -> bool:
    return procs.link(f"/proc/{pid}/fd/{name}") == shared_table.KIND


def test_they_are_told_apart_from_the_daemon():
    """Whoever kills it by name or by its command line leaves those that hold."""
    process, holders = start("-c", "input()")
    try:
        end_s = time.monotonic() + 10
        while [procs.task(one.pid).comm for one in holders] != ["reberth-holder"] * 2:  # they name themselves
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert [procs.command_line(one.pid)[0] for one in holders] == ["reberth-holder"] * 2
        assert [os.getsid(one.pid) for one in holders] == [one.pid for one in holders]
        assert procs.command_line(process.pid) == [sys.executable, "-c", "input()"]
    finally:
        for one in holders:
            shared_table.end(one)
        process.communicate(b"\n")
    assert process.returncode == 0  # it began as if nothing had been


def test_a_file_has_a_bound_and_its_end_is_an_error_of_the_write(tmp_path):
    text = "import os, sys\nf = open(sys.argv[1], 'wb', buffering=0)\ntry:\n  while f.write(b'x' * 4096): pass\n"
    process, _ = start("-c", text + "except OSError as e: print(e.errno)", str(tmp_path / "log"), holders=0)
    assert process.communicate()[0] == b"27\n"
    assert (tmp_path / "log").stat().st_size == 1 << 16


def test_a_program_that_never_begins(monkeypatch):
    monkeypatch.setattr(shared_table, "LIMIT_S", 0.1)
    process = subprocess.Popen(["sleep", "60"])
    with pytest.raises(OpError, match="did not begin within") as caught:
        shared_table.begin(process, 2, file_bytes=1 << 16)
    assert caught.value.hint and process.returncode == -9
    process = subprocess.Popen(["false"])
    with pytest.raises(OpError, match="ended with 1 before"):
        shared_table.begin(process, 2, file_bytes=1 << 16)
    assert process.returncode in (1, -9)


def test_a_processor_that_it_does_not_know(monkeypatch):
    monkeypatch.setattr(shared_table, "MACHINES", {})
    process = subprocess.Popen(shared_table.stopped(["true"]))
    with pytest.raises(OpError, match="not on a processor of kind") as caught:
        shared_table.begin(process, 2, file_bytes=1 << 16)
    assert "--no-lazy-restore" in caught.value.hint


def test_the_end_of_a_pid_that_means_another_process_now():
    process = subprocess.Popen(["sleep", "60"])
    try:
        shared_table.end(shared_table.Holder(process.pid, 1))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("machine", shared_table.MACHINES.values(), ids=list(shared_table.MACHINES))
def test_the_code_of_each_processor_ends_where_the_name_begins(machine):
    assert isinstance(ctypes.c_char_p(machine.code + shared_table.NAME).value, bytes)
    assert len(machine.code) % (4 if machine is shared_table.AARCH64 else 1) == 0
    assert machine.result not in machine.set or machine is not shared_table.X86_64
