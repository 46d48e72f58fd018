"""Tools that outlived their helper are found in the cgroup that was made for them, or by root's mark; others never."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from reberth.node.criu.tool import Job
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.runs import run
from reberth.node.runs.source import Source
from reberth.node.system import orphans, procs

as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs users of its own, or a cgroup")
AS_USER = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


@pytest.fixture
def start():
    """Starts processes, of this run or another one."""
    started = []

    def begin(words, run_id=""):
        env = {**os.environ, **({orphans.MARK: run_id} if run_id else {})}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, env=env)
        started.append(process)
        assert process.stdout.readline() == b"up\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(is_so) -> None:
    deadline_s = time.monotonic() + 20
    while not is_so() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert is_so()


def test_tools_of_another_suite_are_no_ones_here(start):
    foreign = subprocess.Popen(SLEEP, stdout=subprocess.PIPE, env={**os.environ, "REBERTH_RUN": "r1"})
    with foreign:
        assert foreign.stdout.readline() == b"up\n"
        assert orphans.find("r1") == orphans.end("r1") == []
        foreign.kill()


def test_only_what_carries_the_whole_mark_is_ended(start):
    ours, other, longer = start(SLEEP, "r1"), start(SLEEP), start(SLEEP, "r12")
    assert [task.pid for task in orphans.find("r1")] == [ours.pid]
    ended = orphans.end("r1")
    assert [task.pid for task in ended] == [ours.pid]
    assert ours.wait(5) == -15
    assert procs.alive(other.pid) and procs.alive(longer.pid)
    assert orphans.end("r1") == []


def test_what_ignores_sigterm_is_killed(start):
    stubborn = start(STUBBORN, "r1")
    assert [task.pid for task in orphans.end("r1", grace_s=0.2)] == [stubborn.pid]
    assert stubborn.wait(5) == -9


def test_what_ends_by_itself_is_left_to_it(start):
    quick = start([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(0.3)"], "r1")
    assert orphans.end("r1", patience_s=20) == []
    assert quick.wait(5) == 0


def test_a_child_of_a_dead_parent_descends_from_nobody(start):
    words = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
    parent = start([sys.executable, "-c", words], "r1")
    child = procs.tree(parent.pid)[1]
    assert procs.descends(child.pid, os.getpid()) and procs.descends(child.pid, parent.pid)
    assert not procs.descends(parent.pid, child.pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while procs.task(child.pid).ppid == parent.pid and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not procs.descends(child.pid, os.getpid())
    assert [task.pid for task in orphans.end("r1")] == [child.pid]


@pytest.mark.parametrize(
    ("name", "word", "known"), [("criu", "dump", True), ("criu", "lazy-pages", False), ("other", "dump", False)]
)
def test_a_criu_that_has_overwritten_its_environment_is_known_by_its_images(tmp_path, name, word, known):
    """Not one that feeds a copy: it goes when its copy has gone."""
    run_id, place = f"images-{os.getpid()}", tmp_path / f"reberth-images-{os.getpid()}-images-x"
    place.mkdir()
    (place / "dump.log").touch()
    shutil.copy(os.path.realpath("/bin/sh"), tmp_path / name)
    with open(place / "dump.log", encoding="ascii") as log:
        process = subprocess.Popen([tmp_path / name, "-c", "while :; do sleep 1; done", word], stdin=log, env={})
    try:
        assert [task.pid for task in orphans.find(run_id)] == ([process.pid] if known else [])
        assert len(orphans.end(run_id)) == known
        assert (process.poll() is not None) is known
    finally:
        process.kill()
        process.wait()


# In a cgroup of the run


@pytest.fixture
def group():
    """A cgroup of its own; whatever is in it at the end is ended."""
    if os.getuid() != 0 or not cgroup.mount_point():
        pytest.skip("needs root and cgroup v2")
    path = os.path.join(cgroup.mount_point(), f"reberth-test-tools-{os.getpid()}")
    cgroup.create(path)
    yield path
    cgroup.kill(path)
    cgroup.remove(path)


def test_what_a_tool_starts_is_found_whatever_becomes_of_the_tool(start, group):
    """As a criu that runc started: runc is killed, and criu has a title in place of its environment."""
    words = "import subprocess; p = subprocess.Popen(['sleep', '60'], env={}); print('up', flush=True); p.wait()"
    parent = start([sys.executable, "-c", f"open({group + '/cgroup.procs'!r}, 'w').write('0'); {words}"])
    child = procs.tree(parent.pid)[1]
    assert {task.pid for task in orphans.find("r1", group)} == {parent.pid, child.pid}
    parent.kill()
    parent.wait()
    assert [task.pid for task in orphans.end("r1", group)] == [child.pid]
    assert not procs.alive(child.pid, child.start_ticks)


def test_nothing_outside_the_cgroup_is_looked_at(start, group, monkeypatch):
    """A mark says nothing where there is a cgroup; and one that is gone holds nothing."""
    stranger = start(SLEEP, "r1")
    monkeypatch.setattr(orphans, "_marked", lambda run_id: pytest.fail("the environment was read"))
    assert orphans.end("r1", group, patience_s=20) == []
    assert orphans.end("r1", group + "-gone") == []
    assert procs.alive(stranger.pid)


def test_a_tool_that_init_has_adopted_is_in_the_cgroup_too(group, tmp_path, monkeypatch):
    """Such a criu is no child of the helper: only by its cgroup is it found when the helper is no more."""
    monkeypatch.setattr(orphans, "_marked", lambda run_id: pytest.fail("the environment was read"))
    job = Job("restore", str(tmp_path), str(tmp_path), tools=group)
    job.spawn(SLEEP, adopted=True)
    wait_for(lambda: (tmp_path / "restore.out").read_text() == "up\n")
    assert [task.pid for task in orphans.find("r1", group)] == [job.pid] == [job.above]
    assert [task.pid for task in orphans.end("r1", group)] == [job.pid]
    assert job.wait_end(20) is not None
    job.close()


def test_an_adopted_tool_of_a_node_without_cgroups_runs_and_has_the_mark(tmp_path):
    (tmp_path / "r1").mkdir()
    job = Job("restore", str(tmp_path / "r1"), str(tmp_path))
    job.spawn(SLEEP, adopted=True)
    wait_for(lambda: (tmp_path / "restore.out").read_text() == "up\n")
    assert [task.pid for task in orphans.end("r1")] == [job.pid]
    assert job.wait_end(20) is not None
    job.close()


# Without one: what users say of themselves is not read


@as_root
def test_a_users_mark_is_no_mark(start):
    user = start([*AS_USER, "env", f"{orphans.MARK}=r1", *["/usr/bin/python3", *SLEEP[1:]]])
    assert orphans.end("r1", patience_s=20) == [] and procs.alive(user.pid)
    mine = start(SLEEP, "r1")
    assert [task.pid for task in orphans.end("r1")] == [mine.pid]  # the twin: the same mark of root's


# prctl(PR_SET_MM_MAP) needs no right: the environment of this process reads as so many MiB of zeros.
BOMB = """
import ctypes, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
size = int(sys.argv[1]) << 20
libc.mmap.restype = libc.sbrk.restype = ctypes.c_void_p
at = libc.mmap(None, ctypes.c_size_t(size), 1, 0x4022, -1, ctypes.c_long(0))
words = open("/proc/self/stat").read().rpartition(")")[2].split()
field = lambda number: int(words[number - 3])
brk = libc.sbrk(ctypes.c_long(0))
lines = (line for line in open("/proc/self/maps") if "[heap]" in line)
heap = next(([int(x, 16) for x in line.split()[0].split("-")] for line in lines), [field(47), brk])
numbers = (*map(field, (26, 27, 45, 46)), heap[0], brk, *map(field, (28, 48, 49)), at, at + size)
data = struct.pack("11Q", *numbers) + struct.pack("QIi", 0, 0, -1)
if libc.prctl(35, 14, ctypes.create_string_buffer(data, len(data)), ctypes.c_ulong(len(data)), 0):
    sys.exit(3)
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def bomb(start):
    """A user's process whose environment reads as 64 MiB."""
    if os.getuid() != 0:
        pytest.skip("needs users of its own")
    try:
        return start([*AS_USER, "/usr/bin/python3", "-c", BOMB, "64"])
    except AssertionError:
        pytest.skip("this kernel has no PR_SET_MM_MAP")


def test_an_environment_of_a_users_making_costs_nothing(bomb, mocker):
    reads = mocker.spy(procs, "read_some")
    assert orphans.find("r1") == [] and procs.environment(bomb.pid) == {} and procs.command_line(bomb.pid) == []
    asked = {call.args[0] for call in reads.call_args_list}
    assert f"/proc/{bomb.pid}/status" in asked and f"/proc/{bomb.pid}/environ" not in asked


def test_no_more_is_read_than_was_said(bomb):
    """The twin: it is really that long, and even of such a one a bounded part is taken."""
    with open(f"/proc/{bomb.pid}/environ", "rb") as file:
        assert len(file.read(2 << 20)) == 2 << 20
    assert len(procs.read_some(f"/proc/{bomb.pid}/environ")) == procs.WORDS_BYTES


def test_a_process_that_hides_its_owner_is_still_a_users(start):
    """Its files in /proc belong to root when it may not be dumped: their owner says nothing."""
    if os.getuid() != 0:
        pytest.skip("needs users of its own")
    hidden = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); print('up', flush=True); time.sleep(60)"
    user = start([*AS_USER, "env", f"{orphans.MARK}=r1", "/usr/bin/python3", "-c", hidden])
    assert os.stat(f"/proc/{user.pid}/environ").st_uid == 0
    assert procs.uids(user.pid) == {1000} and orphans.find("r1") == []


@as_root
@pytest.mark.parametrize("error", [MemoryError, OSError, OpError])
def test_a_search_that_fails_never_keeps_the_workload_frozen(tmp_path, monkeypatch, mocker, error):
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    fence = tmp_path / "cg"
    fence.mkdir()
    for name, text in (("freeze", "1\n"), ("events", "populated 1\nfrozen 1\n"), ("procs", "")):
        (fence / f"cgroup.{name}").write_text(text)
    opened = run.Run.open("r1", "source", "criu/7")
    opened.journal.write("freezing", cgroup=str(fence), argv=["criu"], root_pid=1, start_ticks=0)
    failure = OpError("x", "no") if error is OpError else error()
    search = mocker.patch.object(orphans, "end", autospec=True, side_effect=failure)
    with pytest.raises(error):
        Source(run.Run.load("r1")).release("resume")
    assert (fence / "cgroup.freeze").read_text().startswith("0")
    search.side_effect = lambda *_, **__: []
    assert Source(run.Run.load("r1")).release("resume")["resumed"]  # and it is tried again
