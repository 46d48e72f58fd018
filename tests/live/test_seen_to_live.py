"""A copy that dies in its first moments, and files that were written since: neither costs the workload anything.

Live because what a copy dies of is the business of kernel and CRIU alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import end_sessions

from reberth_lab.node import Node

PLACE = "/srv/lives"
# Counts in a file that it replaces each time, so that no descriptor stays open; `act` is what each turn does besides.
PROGRAM = """
import ctypes, json, os, signal, sys, time
C, n, word = ctypes.CDLL(None), 0, ctypes.c_int()
def act(): pass
exec(sys.argv[1])
while True:
    n += 1
    act()
    C.prctl(2, ctypes.byref(word))
    with open("PLACE/new", "w") as file:
        json.dump({"n": n, "pdeath": word.value, "ppid": os.getppid()}, file)
    os.rename("PLACE/new", "PLACE/status")
    time.sleep(0.01)
""".replace("PLACE", PLACE)
START = 'mkdir -p "$0"; setsid python3 -S -c "$1" "$2" </dev/null >/dev/null 2>&1 & echo $!'
# Only on node2: what a program meets in other surroundings.
ELSEWHERE = f"if os.path.exists('{PLACE}/elsewhere'): "
STORE = f"""
import mmap
fd = os.open("{PLACE}/store", os.O_RDWR)
m = mmap.mmap(fd, 65536)
def act():
    if os.path.exists("{PLACE}/write"): m[n % 65536] = 1
"""

Begin = Callable[[str], int]


@pytest.fixture
def begin(node1: Node, node2: Node, watch: Watch) -> Iterator[Begin]:
    """Starts such a program on node1, adopted by init as nothing keeps it; it is ended wherever it is."""
    pids: list[int] = []

    def start(script: str) -> int:
        pids.append(int(node1.run(["sh", "-c", START, PLACE, PROGRAM, script]).stdout))
        count(node1)
        return pids[-1]

    for node in (node1, node2):
        node.run(["mkdir", "-p", PLACE])
    yield start
    for node in (node1, node2):
        end_sessions(node, pids)
        node.run(["rm", "-rf", PLACE])


def status(node: Node) -> dict[str, int]:
    found = node.run(["cat", f"{PLACE}/status"], check=False)
    read: dict[str, int] = json.loads(found.stdout) if found.returncode == 0 else {"n": 0}
    return read


def count(node: Node, after: int = 0, limit_s: float = 20.0) -> int:
    """The program's count once it is larger than `after`."""
    deadline = time.monotonic() + limit_s
    while (found := status(node)["n"]) <= after:
        assert time.monotonic() < deadline, f"it stands at {found} on {node.name}"
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("mode", ["stop-and-copy", "post-copy"])
def test_a_parent_death_signal_moves_along(begin: Begin, reberth: Command, node1: Node, node2: Node, mode: str) -> None:
    pid = begin("C.prctl(1, signal.SIGTERM)")
    here = count(node1)
    done = reberth.move(f"node1:criu/{pid}", "node2:", "--mode", mode)
    assert done.code == 0, str(done)
    count(node2, here)
    found = status(node2)
    assert (found["pdeath"], found["ppid"]) == (15, 1), found


@pytest.mark.parametrize(
    ("death", "words"),
    [("os.kill(os.getpid(), signal.SIGILL)", "SIGILL"), ("os._exit(0)", "exit status 0")],
)
def test_a_copy_that_dies_at_once_leaves_its_source(
    begin: Begin, reberth: Command, node1: Node, node2: Node, death: str, words: str
) -> None:
    """Held with the cause, and the command that is printed makes the source run again."""
    pid = begin(f"def act():\n    {ELSEWHERE}{death}")
    node2.run(["touch", f"{PLACE}/elsewhere"])
    done = reberth.move(f"node1:criu/{pid}", "node2:")
    assert (done.code, done.report["outcome"], done.report["owner"]) == (40, "held", "nobody"), str(done)
    assert words in done.report["error"]["message"] or "does not tell" in done.report["error"]["message"], str(done)
    said = done.report["error"]["message"] + done.report["error"]["hint"]  # by who looked first, it is one or the other
    assert "--rollback" in said and "--forward" in said, str(done)
    here = status(node1)["n"]
    back = reberth.run("recover", done.report["id"], "--rollback", "--yes", "--json")
    assert back.code == 0, str(back)
    count(node1, here)
    assert node2.run(["test", "-e", f"/proc/{pid}"], check=False).returncode == 1
    node2.run(["rm", f"{PLACE}/elsewhere"])
    done = reberth.move(f"node1:criu/{pid}", "node2:")  # the twin: the same program where it likes it
    assert done.code == 0, str(done)


def test_the_end_of_a_copy_can_be_accepted(begin: Begin, reberth: Command, node1: Node, node2: Node) -> None:
    pid = begin(f"def act():\n    {ELSEWHERE}os._exit(0)")
    node2.run(["touch", f"{PLACE}/elsewhere"])
    done = reberth.move(f"node1:criu/{pid}", "node2:")
    assert done.code == 40, str(done)
    accepted = reberth.run("recover", done.report["id"], "--forward", "--yes", "--json")
    assert accepted.code == 21, str(accepted)
    for node in (node1, node2):
        assert node.run(["test", "-e", f"/proc/{pid}"], check=False).returncode == 1


def test_a_store_that_was_written_since_its_copy(begin: Begin, reberth: Command, node1: Node, node2: Node) -> None:
    """With --files none it is compared; the twin of the first move is the second one: not written since its copy."""
    for node in (node1, node2):
        node.run(["sh", "-c", f"mkdir -p {PLACE}; head -c 65536 /dev/zero > {PLACE}/store"])
    pid = begin(STORE)
    node1.run(["touch", f"{PLACE}/write"])
    here = count(node1, count(node1))
    done = reberth.move(f"node1:criu/{pid}", "node2:", "--files", "none")
    assert (done.code, done.report["outcome"]) == (20, "rolled-back"), str(done)
    assert f"{PLACE}/store" in done.report["error"]["message"], str(done)
    count(node1, here)
    node1.run(["rm", f"{PLACE}/write"])
    count(node1, count(node1))
    text = node1.run(["base64", f"{PLACE}/store"]).stdout
    node2.run(["sh", "-c", f'echo "$0" | base64 -d > {PLACE}/store', text])
    done = reberth.move(f"node1:criu/{pid}", "node2:", "--files", "none")
    assert done.code == 0, str(done)
