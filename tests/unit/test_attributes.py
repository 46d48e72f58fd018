"""What CRIU forgets is read of a process and set again in one that lacks it: each kind, and what is lost in words."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from reberth.node.attributes import all as attributes
from reberth.node.attributes import sockets, tasks, timers
from reberth_hooks import Level, Move
from reberth_hooks.criu.attributes import attribute_checks, tell_lost

HOLD = """
import ctypes, os, socket, struct, sys
c = ctypes.CDLL(None, use_errno=True)
exec(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""
JOIN = "s.setsockopt(0, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('239.77.1.1') + bytes(4) + struct.pack('i', 1))"
LEAVE = JOIN.replace("IP_ADD_MEMBERSHIP", "IP_DROP_MEMBERSHIP")
root = pytest.mark.skipif(os.geteuid() != 0, reason="setting attributes of another process needs root")


class Process:
    """A process that does what the script says, and then evaluates what it is asked."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.pid = process, process.pid

    def ask(self, words: str) -> str:
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextlib.contextmanager
def holder(script: str):
    argv = [sys.executable, "-c", HOLD, script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        try:
            yield Process(process)
        finally:
            process.kill()


# kind: set it, take it away, ask for it
WAYS = {
    "affinity": ("os.sched_setaffinity(0, {0})", "os.sched_setaffinity(0, {0, 1})", "os.sched_getaffinity(0)"),
    "ioprio": (
        f"c.syscall({tasks._IOPRIO_SET}, 1, 0, (2 << 13) | 6)",
        f"c.syscall({tasks._IOPRIO_SET}, 1, 0, 0)",
        f"c.syscall({tasks._IOPRIO_GET}, 1, 0)",
    ),
    "timer slack": ("c.prctl(29, 123456, 0, 0, 0)", "c.prctl(29, 50000, 0, 0, 0)", "c.prctl(30, 0, 0, 0, 0)"),
    "coredump filter": (
        "open('/proc/self/coredump_filter', 'w').write('0x1')",
        "open('/proc/self/coredump_filter', 'w').write('0x33')",
        "open('/proc/self/coredump_filter').read()",
    ),
    "group": (f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); {JOIN}", LEAVE, "open('/proc/net/igmp').read()"),
    "option": (
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(0, 33, 9)",
        "s.setsockopt(0, 33, 1)",
        "s.getsockopt(0, 33)",
    ),
    "congestion": (
        "s = socket.socket(); s.setsockopt(6, 18, 4321)",
        "s.setsockopt(6, 18, 0)",
        "s.getsockopt(6, 18)",
    ),
}


@root
@pytest.mark.parametrize("kind", WAYS)
def test_what_was_set_is_set_again(kind):
    if kind == "affinity" and (os.cpu_count() or 1) < 2:
        pytest.skip("one processor: nothing to be bound to")
    script, away, words = WAYS[kind]
    with holder(script) as process:
        had = process.ask(words)
        saved = attributes.save([process.pid])
        assert process.ask(away) is not None and process.ask(words) != had
        assert attributes.set_again([process.pid], saved) == []
        assert process.ask(words) == had


@root
def test_what_nobody_has_set_is_not_saved_and_not_changed():
    with holder("pass") as process:
        saved = attributes.save([process.pid])
        assert saved["tasks"] == {"threads": {}, "processes": {}} and saved["timers"] == []
        assert attributes.set_again([process.pid], saved) == []


@root
def test_a_source_filter_of_a_group_comes_again():
    source = "socket.inet_aton('239.77.1.2') + socket.inet_aton('127.0.0.1') + socket.inet_aton('127.0.0.5')"
    script = f"s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(0, 39, {source})"
    with holder(script) as process:
        saved = sockets.save([process.pid])
        had = process.ask("open('/proc/net/mcfilter').read()")
        assert process.ask(f"s.setsockopt(0, 40, {source})") == "None"
        assert sockets.set_again([process.pid], saved) == []
        assert process.ask("open('/proc/net/mcfilter').read()") == had


TICKER = """
class Spec(ctypes.Structure):
    _fields_ = [("a", ctypes.c_long), ("b", ctypes.c_long), ("c", ctypes.c_long), ("d", ctypes.c_long)]
fd = c.timerfd_create(1, 0o4000)
c.timerfd_settime(fd, 0, ctypes.byref(Spec(0, 100_000, 0, 100_000)), None)
def off(): return c.timerfd_settime(fd, 0, ctypes.byref(Spec(0, 100_000, 0, 0)), None)
def ticks():
    import time
    time.sleep(0.05)
    try: return struct.unpack("Q", os.read(fd, 8))[0] > 0
    except BlockingIOError: return False
"""


@root
def test_a_fast_ticker_that_stood_at_zero_ticks_again():
    with holder(TICKER) as process:
        saved = timers.save([process.pid])
        assert [row[2] for row in saved] == [100_000]
        assert process.ask("off()") == "0" and process.ask("ticks()") == "False"
        assert timers.set_again([process.pid], saved) == []
        assert process.ask("ticks()") == "True" and process.ask("ticks()") == "True"


@root
def test_a_ticker_that_was_off_stays_off():
    with holder(TICKER) as process:
        process.ask("off()")
        assert timers.save([process.pid]) == []


@root
def test_what_cannot_be_set_is_named():
    with holder("s = socket.socket()") as process:
        saved = {
            "tasks": {"threads": {str(process.pid): {"processors": [0, 4000]}}, "processes": {}},
            "sockets": {"sets": [[]], "sockets": [[process.pid, 3, 0, [["nodev", "239.1.1.1", ""]]]], "left": 2},
        }
        lost = attributes.set_again([process.pid], saved)
        assert len(lost) == 3 and "the processors 4000 of thread" in lost[0], lost
        assert "2 sockets" in lost[1] and "239.1.1.1 on nodev" in lost[2]


@root
def test_the_number_of_an_interface_is_that_of_the_process_s_own_network():
    """A container's interfaces have other numbers than the helper's, and other ones on each node."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.IPPROTO_IPV6, 17, 1)
        saved = [row for row in sockets._options(one, {"inside0": 1}) if row[:2] == (socket.IPPROTO_IPV6, 17)]
        assert saved == [(socket.IPPROTO_IPV6, 17, "dev:inside0")]
        one.setsockopt(socket.IPPROTO_IPV6, 17, 0)
        assert list(sockets._set_options(one, saved, {"other": 1})) == ["IPV6_MULTICAST_IF"]
        assert list(sockets._set_options(one, saved, {"inside0": 1})) == []
        assert one.getsockopt(socket.IPPROTO_IPV6, 17) == 1


def test_the_plan_warns_of_what_the_copy_will_lack():
    tree = {"processors": [1, 7], "personality": ["0x40000 of process 3"]}
    hello = {"processors": [0, 1]}
    first, second = attribute_checks(tree, "a", "b", hello)
    assert (first.id, first.level, first.node, second.id, second.node) == (
        "affinity",
        Level.WARN,
        "b",
        "personality",
        "a",
    )
    assert first.reason.endswith("lacks: 7") and "0x40000" in second.reason
    assert list(attribute_checks({"processors": [0]}, "a", "b", hello)) == []


def test_the_report_names_what_was_lost(mocker):
    move = mocker.create_autospec(Move, instance=True)
    tell_lost(move, {"lost": [f"thing {n}" for n in range(6)]})
    assert move.emit.call_args_list[0].args == ("warning", "the copy lacks thing 0")
    assert move.emit.call_args_list[-1].args == ("warning", "the copy lacks 2 more things of this kind")
