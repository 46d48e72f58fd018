"""What CRIU forgets of a process is the same after a move: tickers, groups, processors, priorities, options of sockets.

Live because criu alone decides what it forgets, and the kernel what can be set from outside.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from livekit.command import Command
from livekit.stand import end_sessions

from reberth_lab.node import Node

PLACE = "/srv/attributes"
# Sets one thing and says what it reads of it, again and again: the last line of `said` is the state now.
PROGRAM = """
import ctypes, json, os, socket, struct, sys, threading, time
c = ctypes.CDLL(None, use_errno=True)
IOPRIO = (251, 252) if os.uname().machine == "x86_64" else (30, 31)
class Spec(ctypes.Structure):
    _fields_ = [("a", ctypes.c_long), ("b", ctypes.c_long), ("c", ctypes.c_long), ("d", ctypes.c_long)]
exec(sys.argv[2])
n = 0
while True:
    n += 1
    with open(sys.argv[1] + "/new", "w") as file:
        json.dump([n, read()], file)
    os.rename(sys.argv[1] + "/new", sys.argv[1] + "/said")
    time.sleep(0.02)
"""
UDP = "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
TICKER = """
fd = c.timerfd_create(1, 0o4000)
c.timerfd_settime(fd, 0, ctypes.byref(Spec(0, 100_000, 0, 100_000)), None)
def read():
    try: return os.read(fd, 8) != b""
    except BlockingIOError: return False
"""
JOINED = """
s.bind(("", 7701))
s.setsockopt(0, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.77.1.1") + bytes(4) + struct.pack("i", 1))
s.settimeout(0.5)
def read():  # the interface of the sender is new each time: the kernel tells nobody which one a socket has
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as o:
        o.setsockopt(0, socket.IP_MULTICAST_IF, bytes(8) + struct.pack("i", 1))
        o.sendto(b"word", ("239.77.1.1", 7701))
    try: return s.recv(9).decode()
    except OSError as error: return str(error)
"""
THREAD = """
found = {}
def work():
    os.sched_setaffinity(0, {1})
    c.prctl(29, 777000, 0, 0, 0)
    while True:
        found.update(a=sorted(os.sched_getaffinity(0)), s=c.prctl(30, 0, 0, 0, 0))
        time.sleep(0.01)
threading.Thread(target=work, daemon=True).start()
def read(): return [found.get("a"), found.get("s"), sorted(os.sched_getaffinity(0)) == [1]]
"""
KINDS = {
    "ticker": TICKER,
    "group": UDP + JOINED,
    "affinity": "os.sched_setaffinity(0, {1})\ndef read(): return sorted(os.sched_getaffinity(0))",
    "thread": THREAD,
    "ioprio": "c.syscall(IOPRIO[0], 1, 0, 3 << 13)\ndef read(): return c.syscall(IOPRIO[1], 1, 0)",
    "slack": "c.prctl(29, 123456, 0, 0, 0)\ndef read(): return c.prctl(30, 0, 0, 0, 0)",
    "coredump": (
        "open('/proc/self/coredump_filter', 'w').write('0x1')\n"
        "def read(): return open('/proc/self/coredump_filter').read()"
    ),
    "multicast options": (
        UDP + "s.setsockopt(0, 33, 9); s.setsockopt(0, 34, 0); s.setsockopt(0, 49, 0)\n"
        "def read(): return [s.getsockopt(0, o) for o in (33, 34, 49)]"
    ),
    "udp options": (
        UDP + "s.setsockopt(0, 11, 1); s.setsockopt(0, 10, 2); s.setsockopt(17, 104, 1)\n"
        "def read(): return [s.getsockopt(0, 11), s.getsockopt(0, 10), s.getsockopt(17, 104)]"
    ),
    "tcp options": (
        "s = socket.socket(); s.bind(('127.0.0.1', 7702)); s.listen(3)\n"
        "s.setsockopt(6, 18, 4321); s.setsockopt(6, 9, 7); s.setsockopt(1, 12, 4)\n"
        "def read(): return [s.getsockopt(6, 18), s.getsockopt(6, 9), s.getsockopt(1, 12)]"
    ),
}
START = 'mkdir -p "$0"; cd /; setsid python3 -S -c "$1" "$0" "$2" </dev/null >/dev/null 2>&1 & echo $!'
Begin = Callable[[str], int]


@pytest.fixture
def begin(node1: Node, node2: Node) -> Iterator[Begin]:
    """Starts such a program on node1; it is ended wherever it is."""
    pids: list[int] = []

    def start(script: str) -> int:
        pids.append(int(node1.run(["sh", "-c", START, PLACE, PROGRAM, script]).stdout))
        said(node1)
        return pids[-1]

    yield start
    for node in (node1, node2):
        end_sessions(node, pids)
        node.run(["rm", "-rf", PLACE])


def said(node: Node, turns: int = 10, limit_s: float = 20.0) -> object:
    """What the program reads once it has gone round some times from now."""
    deadline, first = time.monotonic() + limit_s, 0
    while time.monotonic() < deadline:
        found = node.run(["cat", f"{PLACE}/said"], check=False)
        if found.returncode == 0:
            n, value = json.loads(found.stdout)
            first = first or n
            if n >= first + turns:
                return value
        time.sleep(0.05)
    raise AssertionError(f"nothing is said on {node.name}")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_after_the_move(kind: str, begin: Begin, reberth: Command, node1: Node, node2: Node) -> None:
    pid = begin(KINDS[kind])
    before = said(node1)
    node2.run(["mkdir", "-p", PLACE])
    done = reberth.move(f"node1:criu/{pid}", "node2:")
    assert done.code == 0, str(done)
    assert said(node2) == before
    assert "the copy lacks" not in done.error, str(done)


def test_what_is_lost_is_said_in_the_plan(begin: Begin, reberth: Command, node2: Node) -> None:
    pid = begin("c.personality(0x0040000)\ndef read(): return c.personality(-1)")
    node2.run(["mkdir", "-p", PLACE])
    done = reberth.move(f"node1:criu/{pid}", "node2:")
    assert done.code == 0, str(done)
    (check,) = [c for c in done.report["checks"] if c["id"] == "personality"]
    assert check["level"] == "warn" and f"of process {pid}" in check["reason"], check
