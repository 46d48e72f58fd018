"""What a process tree writes travels with it: every record is there, and what stood on the target comes back.

Live because the kernel alone says what is open, and criu alone whether it takes the file that was carried.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import pytest
from livekit.command import Command
from livekit.rollback import check_rolled_back
from livekit.snapshot import Watch
from livekit.stand import end_sessions

from reberth_lab.node import Node

PLACE = "/srv/scribe/deep"
WAYS = ("append", "pwrite", "map", "stream", "two")
# Writes numbered records without a pause. A process that has seen a record wrong, or that cannot write, ends.
SCRIBE = """
import mmap, os, struct, sys
way, place = sys.argv[1:]
path, log, slots, n = place + "/store", place + "/log", 1 << 16, 0
os.chdir(place)
store, flags = way in ("pwrite", "map"), os.O_RDWR | os.O_CREAT
if way in ("append", "two"):
    flags |= os.O_APPEND
fd = os.open(path if store else log, flags, 0o640)
if store:
    os.ftruncate(fd, slots * 8)
memory = mmap.mmap(fd, slots * 8) if way == "map" else None
if way == "map":
    os.close(fd)
if way == "two" and os.fork() == 0:
    path = place + "/second"
    os.close(fd)
    fd = os.open(path, flags, 0o640)
while True:
    n += 1
    if way in ("append", "stream", "two"):
        os.write(fd, b"%09d\\n" % n)
        if n >= 10_000_000:
            os._exit(0)
    elif memory is not None:
        memory[n % slots * 8 : n % slots * 8 + 8] = struct.pack("<Q", n)
    else:
        os.pwrite(fd, struct.pack("<Q", n), n % slots * 8)
    if n % 500 == 0:
        os.sched_yield()
        import time
        time.sleep(0.001)
"""
# Says what the files hold: how many records, and the first that is missing.
READER = """
import json, os, struct, sys
place, found = sys.argv[1], {}
for name in sorted(os.listdir(place)):
    with open(os.path.join(place, name), "rb") as file:
        data = file.read()
    if name == "store":
        rows = struct.unpack(f"<{len(data) // 8}Q", data)
        last = max(rows)
        wrong = [n for n in range(max(1, last - len(rows) + 1), last + 1) if rows[n % len(rows)] != n]
    else:
        rows = data[: len(data) // 10 * 10].split(b"\\n")[:-1]
        last = len(rows)
        wrong = [n for n, row in enumerate(rows, 1) if row != b"%09d" % n]
    found[name] = {"last": last, "wrong": wrong[:3]}
print(json.dumps(found))
"""
START = 'mkdir -p "$2"; cd "$2"; setsid python3 -S -c "$0" "$1" "$2" </dev/null >/dev/null 2>&1 & echo $!'
HIDDEN = ["find", "/srv", "-name", ".reberth-*"]


class Scribe(NamedTuple):
    """A writer on node1: its pid, and the names of its files."""

    pid: int
    names: frozenset[str]


@pytest.fixture
def begin(node1: Node, node2: Node) -> Iterator[Callable[[str], Scribe]]:
    """Starts a writer on node1; it is ended wherever it is."""
    begun: list[Scribe] = []

    def start(way: str, program: str = SCRIBE) -> Scribe:
        pid = int(node1.run(["sh", "-c", START, program, way, PLACE]).stdout)
        names = {"pwrite": {"store"}, "map": {"store"}, "two": {"log", "second"}}.get(way, {"log"})
        begun.append(Scribe(pid, frozenset(names)))
        goes_on(node1, begun[-1])
        return begun[-1]

    yield start
    for node in (node1, node2):
        end_sessions(node, [one.pid for one in begun])
        node.run(["sh", "-c", "rm -rf /srv/scribe /dev/shm/sem.* /dev/shm/psm_*"])


@pytest.fixture
def shared(begin: Callable[..., Scribe]) -> Callable[[str], Scribe]:
    """Starts a tree whose processes share semaphores or memory by name."""
    return lambda way: begin(way, SHARED)


def read(node: Node) -> dict[str, dict[str, list[int] | int]]:
    found: dict[str, dict[str, list[int] | int]] = json.loads(node.run(["python3", "-c", READER, PLACE]).stdout)
    return found


def goes_on(node: Node, scribe: Scribe, limit_s: float = 20.0) -> None:
    """Wait until each file has more records than now, all of them right."""
    deadline, first = time.monotonic() + limit_s, None
    while time.monotonic() < deadline:
        if node.run(["test", "-d", PLACE], check=False).returncode == 0:
            found = read(node)
            assert all(one["wrong"] == [] for one in found.values()), found
            if set(found) >= scribe.names:
                first = first or found
                if all(found[name]["last"] > first[name]["last"] for name in scribe.names):  # type: ignore[operator]
                    return
        time.sleep(0.1)
    raise AssertionError(f"nothing is written on {node.name}: {first}")


def word(scribe: Scribe) -> str:
    return f"node1:criu/{scribe.pid}"


@pytest.mark.parametrize("old", [False, True], ids=["new", "over an old file"])
@pytest.mark.parametrize("way", WAYS)
def test_every_record_is_there(
    way: str, old: bool, begin: Callable[[str], Scribe], reberth: Command, node1: Node, node2: Node
) -> None:
    scribe = begin(way)
    if old:
        node2.run(["sh", "-c", f"mkdir -p {PLACE}; for n in store log second; do echo old >{PLACE}/$n; done"])
    done = reberth.move(word(scribe), "node2:")
    assert done.code == 0, str(done)
    if old:
        node2.run(["sh", "-c", f"cd {PLACE} && grep -lx old store log second | xargs -r rm"])
    goes_on(node2, scribe)
    before = read(node1)
    assert node2.run(["stat", "-c", "%a", f"{PLACE}/{sorted(scribe.names)[0]}"]).stdout.strip() == "640"
    assert read(node1) == before  # nobody writes there any more, and the files were left
    assert [node.run(HIDDEN).stdout for node in (node1, node2)] == ["", ""]


SHARED = """
import ctypes, multiprocessing as mp, os, sys, time
from multiprocessing import shared_memory
way, place = sys.argv[1:]
c = ctypes.CDLL(None, use_errno=True)
c.sem_open.restype = ctypes.c_void_p
for f in (c.sem_post, c.sem_trywait): f.argtypes = [ctypes.c_void_p]
c.sem_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_uint]
def take(s):
    for _ in range(2000):
        if not c.sem_trywait(s): return
        time.sleep(0.001)
    os._exit(1)
def work(q, lock):
    n = 0
    while True:
        n += 1
        with lock: q.put(n)
        time.sleep(0.005)
if way == "semaphore":
    ping, pong = (c.sem_open(b"/rb-" + w, os.O_CREAT, 0o600, 0) for w in (b"ping", b"pong"))
    if os.fork() == 0:
        while True: take(ping); c.sem_post(pong)
    def turn(n): c.sem_post(ping); take(pong)
else:
    q, lock, block = mp.Queue(), mp.Lock(), shared_memory.SharedMemory(create=True, size=4096)
    mp.Process(target=work, args=(q, lock), daemon=True).start()
    def turn(n):
        if q.get(timeout=20) != n: os._exit(1)
        block.buf[n % 4096] = n % 251
        if n > 1 and block.buf[(n - 1) % 4096] != (n - 1) % 251: os._exit(1)
fd = os.open(place + "/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
n = 0
while True:
    n += 1
    turn(n)
    os.write(fd, b"%09d\\n" % n)
"""


@pytest.mark.parametrize("way", ["semaphore", "multiprocessing"])
def test_what_processes_share_by_name_travels(
    way: str,
    shared: Callable[[str], Scribe],
    sabotage: Callable[..., Mapping[str, str]],
    reberth: Command,
    node1: Node,
    node2: Node,
) -> None:
    """Semaphores and shared memory are files of /dev/shm; a semaphore is open by a name that glibc has deleted."""
    scribe = shared(way)
    listing, there = ["ls", "/dev/shm"], node2.run(["ls", "/dev/shm"]).stdout
    here = node1.run(listing).stdout
    spoil = node2.enter(["sh", "-c", f"echo spoilt >>{PLACE}/log"])
    check_rolled_back(reberth.move(word(scribe), "node2:", env=sabotage("restore", spoil)))
    goes_on(node1, scribe)
    assert (node1.run(listing).stdout, node2.run(listing).stdout) == (here, there)
    done = reberth.move(word(scribe), "node2:")
    assert done.code == 0, str(done)
    goes_on(node2, scribe)
    assert set(here.split()) <= set(node2.run(listing).stdout.split())
    assert "link_remap" not in node1.run(listing).stdout + node2.run(listing).stdout


@pytest.mark.parametrize("mode", ["post-copy", "stop-and-copy"])
def test_it_travels_in_each_mode_that_this_kernel_has(
    mode: str, begin: Callable[[str], Scribe], reberth: Command, node2: Node
) -> None:
    scribe = begin("append")
    done = reberth.move(word(scribe), "node2:", "--mode", mode)
    assert done.code == 0, str(done)
    goes_on(node2, scribe)


def test_the_judge_sees_one_lost_record(begin: Callable[[str], Scribe], node1: Node) -> None:
    """The twin: a record that is cut out is found."""
    scribe = begin("append")
    node1.run(["sh", "-c", f"kill -9 {scribe.pid}; sed -i 7d {PLACE}/log"])
    assert read(node1)["log"]["wrong"] == [7, 8, 9]


def test_what_stood_there_comes_back(
    begin: Callable[[str], Scribe],
    sabotage: Callable[..., Mapping[str, str]],
    reberth: Command,
    watch: Watch,
    node1: Node,
    node2: Node,
) -> None:
    """The restore fails after the file has got its name: the target's own file is as it was, its inode too."""
    scribe = begin("append")
    node2.run(["sh", "-c", f"mkdir -p {PLACE}; echo mine >{PLACE}/log"])
    stat = ["stat", "-c", "%i %s %Y %a", f"{PLACE}/log"]
    was, running = node2.run(stat).stdout, watch.again()
    spoil = node2.enter(["sh", "-c", f"echo spoilt >>{PLACE}/log"])
    check_rolled_back(reberth.move(word(scribe), "node2:", env=sabotage("restore", spoil)))
    assert node2.run(stat).stdout == was and node2.run(HIDDEN).stdout == ""
    goes_on(node1, scribe)
    running.check()


def test_folders_that_were_made_go_again(
    begin: Callable[[str], Scribe],
    sabotage: Callable[..., Mapping[str, str]],
    reberth: Command,
    node1: Node,
    node2: Node,
) -> None:
    scribe = begin("append")
    node2.run(["rm", "-rf", "/srv/scribe"])
    spoil = node2.enter(["sh", "-c", f"echo spoilt >>{PLACE}/log"])
    check_rolled_back(reberth.move(word(scribe), "node2:", env=sabotage("restore", spoil)))
    assert node2.run(["test", "-e", "/srv/scribe"], check=False).returncode == 1
    goes_on(node1, scribe)


def test_without_carrying_a_log_is_refused(begin: Callable[[str], Scribe], reberth: Command, node1: Node) -> None:
    scribe = begin("append")
    done = reberth.move(word(scribe), "node2:", "--files", "none")
    assert done.code == 10, str(done)
    goes_on(node1, scribe)


def test_a_file_that_is_in_use_there_is_not_replaced(
    begin: Callable[[str], Scribe], reberth: Command, node1: Node, node2: Node
) -> None:
    scribe = begin("append")
    hold = f"mkdir -p {PLACE}; setsid sleep 600 >>{PLACE}/log </dev/null 2>&1 & echo $!"
    pid = node2.run(["sh", "-c", hold]).stdout.strip()
    done = reberth.move(word(scribe), "node2:")
    node2.run(["kill", pid])
    assert done.code == 10 and f"sleep ({pid}) has it open there" in done.error, str(done)
    goes_on(node1, scribe)
