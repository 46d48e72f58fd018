"""The action script for a criu that a daemon starts: whose it is, what it holds, and what it does alone."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from reberth.node import gate, gated
from reberth.node.criu import planted
from reberth.node.criu.pagemap import pack
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.runs import run
from reberth.node.system import procs

pytestmark = pytest.mark.skipif(os.getuid() != 0 or not cgroup.mount_point(), reason="needs root and cgroup v2")
LEAF = f"lxc.payload.gate-test-{os.getpid()}"
# Like criu: it runs the script and ends with it.
CRIU = "import os, subprocess, sys; sys.exit(subprocess.call([sys.argv[1]], env=dict(os.environ)))"


def planted_in(place, monkeypatch):
    """CRIU's configuration, the script and its table in a place of the test."""
    for name, path in (("CONFIG", "etc/default.conf"), ("SCRIPT", "etc/gate"), ("TABLE", "run/gates")):
        monkeypatch.setattr(planted, name, str(place / path))


class Site:
    """A run, a container's cgroup with one task in it, and a criu that calls the script for it."""

    def __init__(self, place, monkeypatch):
        monkeypatch.setattr(run, "STATE", str(place / "state"))
        planted_in(place, monkeypatch)
        self.run = run.Run.open("r1", "source", "lxd/c1")
        self.cgroup = os.path.join(cgroup.mount_point(), LEAF)
        os.makedirs(self.cgroup, exist_ok=True)
        self.task = subprocess.Popen(["sleep", "60"])
        cgroup.enter(self.cgroup, self.task.pid)

    def gate(self, role, worker=(), **words):
        """A gate that is planted, as every criu finds it."""
        job = gate.Gate(role, self.run.dir, LEAF, worker, fence=self.cgroup if role == "source" else "", **words)
        job.plant()
        return job

    def criu(self, action, init=None, script=""):
        script = script or planted.SCRIPT
        env = {**os.environ, "CRTOOLS_SCRIPT_ACTION": action, "CRTOOLS_INIT_PID": str(init or self.task.pid)}
        return subprocess.Popen([sys.executable, "-c", CRIU, script], env=env)

    def close(self):
        cgroup.thaw(self.cgroup)
        self.task.kill()
        self.task.wait()
        os.rmdir(self.cgroup)


@pytest.fixture
def site(tmp_path, monkeypatch):
    made = Site(tmp_path, monkeypatch)
    yield made
    made.close()


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("word", "code"), [("go", 0), ("veto", 1)])
def test_the_source_is_held_and_fenced_until_it_is_answered(site, word, code):
    job = site.gate("source")
    criu = site.criu("post-dump")
    until(lambda: job.holds("post-dump"))
    assert cgroup.is_frozen(site.cgroup) and criu.poll() is None and job.pid == criu.pid
    done = threading.Thread(target=job.finish, args=(word, 10.0))
    done.start()
    assert criu.wait(20) == code
    done.join(20)


def test_pre_dump_passes_and_tells_when_the_freeze_began(site):
    job = site.gate("source")
    assert site.criu("pre-dump").wait(20) == 0
    assert job.frozen_ns > 0 and not cgroup.is_asked_to_freeze(site.cgroup)


def test_a_source_that_pauses_begins_when_it_is_told(site):
    """Its first dump waits, and runs on meanwhile; the next one does not wait again."""
    job = site.gate("source", pauses=True)
    assert not job.begin()
    criu = site.criu("pre-dump")
    until(lambda: job.holds("pre-dump"))
    met_ns = job.frozen_ns
    assert criu.poll() is None and not cgroup.is_asked_to_freeze(site.cgroup)
    assert job.begin() and criu.wait(20) == 0 and not job.begin()
    assert job.frozen_ns > met_ns  # the wait is no part of the freeze
    assert site.criu("pre-dump").wait(20) == 0


def test_no_more_begin_than_there_are_processors(site, monkeypatch):
    """Those that wait run; a turn ends with the copy that is held, with a veto, or with the helper."""
    monkeypatch.setattr(gate.os, "sched_getaffinity", lambda pid: {3})
    first, second = site.gate("source", pauses=True), site.gate("source", pauses=True)
    assert first.has_turn() and first.has_turn() and not second.has_turn()
    first.end_turn()
    assert second.has_turn() and not first.has_turn()
    second.stop(0.0)
    assert first.has_turn()
    monkeypatch.setattr(gate, "TURN_S", -1.0)
    assert second.has_turn()  # it has waited long enough
    for job in (first, second):
        job.stop(0.0)


def test_a_source_that_pauses_never_begins_after_a_veto(site):
    job = site.gate("source", pauses=True)
    criu = site.criu("pre-dump")
    until(lambda: job.holds("pre-dump"))
    threading.Thread(target=criu.wait).start()
    job.stop(10.0)
    assert criu.wait(20) == 1 and not job.begin()


def test_the_copy_is_held_and_vetoed(site):
    job = site.gate("target")
    criu = site.criu("post-restore")
    until(lambda: job.holds("post-restore"))
    threading.Thread(target=criu.wait).start()
    job.stop(10.0)
    assert criu.wait(20) == 1
    later = site.criu("post-restore")
    assert later.wait(20) == 1  # after a veto nothing passes any more


# What the daemon starts: it waits for its criu, which runs the script.
WORKER = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', *sys.argv[1:3]]))"


def restored_by(worker, images):
    """The end of a criu below this worker that begins to restore: there is no task of the container yet."""
    env = {k: v for k, v in os.environ.items() if k != "CRTOOLS_INIT_PID"}
    env |= {"CRTOOLS_SCRIPT_ACTION": "pre-restore", "CRTOOLS_IMAGE_DIR": str(images)}
    words = [sys.executable, "-c", WORKER, CRIU, planted.SCRIPT, *worker]
    return subprocess.run(words, env=env, timeout=20, check=False).returncode


@pytest.fixture
def images(tmp_path):
    """One process with two pages."""
    parts = [{1: 1}, {1: 0x7F0000000000, 4: 4, 5: 2}]
    data = b"".join(struct.pack("<I", len(pack(one))) + pack(one) for one in parts)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/pagemap-1.img").write_bytes(b"m" * 8 + data)
    (tmp_path / "images/pages-1.img").write_bytes(bytes(2 * os.sysconf("SC_PAGE_SIZE")))
    return tmp_path / "images"


def test_a_restore_from_whole_images_goes_on(site, images):
    job = site.gate("target", ["forkmigrate", "c1"])
    assert restored_by(["forkmigrate", "c1", "/d"], images) == 0
    assert job.met[0] > 0 and job.damage == ""


def test_a_pages_image_that_is_cut_short_never_reaches_criu(site, images):
    """Its restorer would read on for ever."""
    os.truncate(images / "pages-1.img", 4095)
    job = site.gate("target", ["forkmigrate", "c1"])
    assert restored_by(["forkmigrate", "c1", "/d"], images) == 1
    assert "pages-1.img has 4095 bytes" in job.damage
    target = SimpleNamespace(lock=threading.RLock(), job=job, run=site.run)
    with pytest.raises(OpError, match="whole") as caught:
        gated.gate_hold(target)
    assert caught.value.kind == "tool-failed" and "pages-1.img" in caught.value.tail


def test_images_that_cannot_be_read_are_left_to_criu(site, tmp_path):
    job = site.gate("target", ["forkmigrate", "c1"])
    assert restored_by(["forkmigrate", "c1", "/d"], tmp_path / "none") == 0
    assert job.met[0] > 0


@pytest.mark.parametrize(
    "worker",
    [
        ["forkmigrate", "c10", "/d"],
        ["forkmigrate", "a-forkmigratec1", "/d"],
        ["forkmigrate", "c1-forkmigrate", "/d"],
        ["forkstart", "c1", "/d"],
    ],
)
def test_the_restore_of_another_container_is_not_looked_at(site, images, worker):
    os.truncate(images / "pages-1.img", 0)
    job = site.gate("target", ["forkmigrate", "c1"])
    assert restored_by(worker, images) == 0
    assert job.met == (0, 0, 0)


def test_the_restore_of_a_container_that_leaves_is_not_looked_at(site, images):
    os.truncate(images / "pages-1.img", 0)
    job = site.gate("source")
    assert restored_by(["forkmigrate", "c1", "/d"], images) == 0 and job.met == (0, 0, 0)


def test_what_a_criu_itself_was_told_makes_it_nobodys(site, images, tmp_path):
    """Its words name paths, and in them any container that has a name like ours."""
    os.truncate(images / "pages-1.img", 0)
    (tmp_path / "criu").symlink_to(os.path.realpath(sys.executable))
    job = site.gate("target", ["forkmigrate", "c1"])
    env = {"CRTOOLS_SCRIPT_ACTION": "pre-restore", "CRTOOLS_IMAGE_DIR": str(images)}
    words = [str(tmp_path / "criu"), "-c", CRIU, planted.SCRIPT, "/containers/forkmigratec1/rootfs"]
    assert subprocess.run(words, env=env, timeout=20, check=False).returncode == 0
    assert job.met == (0, 0, 0)


@pytest.mark.parametrize("role", ["source", "target"])
@pytest.mark.parametrize("action", ["pre-dump", "post-dump", "post-restore", "pre-resume"])
def test_the_criu_of_another_container_passes(site, role, action):
    job = site.gate(role)
    assert site.criu(action, init=os.getpid()).wait(20) == 0
    assert job.met == (0, 0, 0)


def test_without_a_helper_the_source_votes_and_runs_again(site):
    """The helper dies while the script waits: end of file on the answer is an answer."""
    program = (
        "import sys, time\nfrom reberth.node import gate\n"
        "job = gate.Gate(*sys.argv[1:4], fence=sys.argv[4])\nprint(job.script, flush=True)\n"
        "while not job.waiting: time.sleep(0.01)\nprint('held', flush=True)\ntime.sleep(60)"
    )
    words = [sys.executable, "-c", program, "source", site.run.dir, LEAF, site.cgroup]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as helper:
        criu = site.criu("post-dump", script=helper.stdout.readline().strip())
        assert helper.stdout.readline() == "held\n"
        helper.kill()
    assert criu.wait(20) == 1
    assert site.run.vote() == "RESUME" and not cgroup.is_asked_to_freeze(site.cgroup)


def test_no_name_of_a_cgroup_gets_into_the_script_unread(site):
    for leaf in ("a'b", "a b", "../x", "", "a\nb", "$(x)"):
        with pytest.raises(OpError, match="no name"):
            gate.Gate("source", site.run.dir, leaf)
        with pytest.raises(OpError, match="no name"):
            gate.Gate("target", site.run.dir, LEAF, ["forkmigrate", leaf])


@pytest.mark.parametrize(("begun", "least"), [(True, 3), (False, 5)])
def test_a_worker_that_stays_without_criu_has_failed(begun, least, tmp_path, monkeypatch):
    """Once criu has begun its log three looks are enough; before that a slow machine has more time."""
    name = f"c{os.getpid()}"  # not that of another suite on this machine
    monkeypatch.setattr(gate, "SLOW_LOOKS", 5)
    if begun:
        (tmp_path / "restore.log").write_text("")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", name, str(tmp_path)]) as idle:
        worker = gate.Worker(["-c", "import time; time.sleep(60)", name])
        looks = 1
        while not worker.failed():
            worker._looked_s = 0.0  # as if the time between two looks had passed
            looks += 1
        assert looks == least
        assert gate.Worker(["nobody", name]).failed() == []
        idle.kill()


# The child is kept in a name: Popen collects a dead one that nobody has.
PARENT = "import subprocess, sys, time; child = subprocess.Popen(sys.argv[3:]); time.sleep(60)"
IDLE = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.mark.parametrize(
    ("begun", "child", "state", "least"),
    [
        (True, ["criu"], "Z", 3),  # liblxc leaves the container's dead first process until its hooks are through
        (False, [*IDLE], "S", 20),
        (False, [*IDLE, "callhook", "/d", "c1", "start"], "S", 20),
        (False, [*IDLE, "callhook", "/d", "c1", "stopns"], "S", 3),  # a criu that ended before it wrote a line
    ],
    ids=["dead", "idle", "start", "stop"],
)
def test_what_below_a_worker_tells_that_it_has_failed(begun, child, state, least, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "SLOW_LOOKS", 20)
    if begun:
        (tmp_path / "restore.log").write_text("")
    if child == ["criu"]:
        (tmp_path / "criu").symlink_to("/bin/true")
        child = [str(tmp_path / "criu")]
    name = f"c{os.getpid()}"  # not that of another suite on this machine
    with subprocess.Popen([sys.executable, "-c", PARENT, name, str(tmp_path), *child]) as parent:
        until(lambda: [task.state for task in procs.tree(parent.pid)[1:]] == [state])
        below = procs.tree(parent.pid)[1].pid
        worker, looks = gate.Worker(["-c", PARENT, name]), 1
        while not worker.failed() and looks < 40:
            worker._looked_s = 0.0
            looks += 1
        os.kill(below, signal.SIGKILL)
        parent.kill()
    assert looks == least


def test_rounds_and_sizes_of_the_daemons_dump(tmp_path):
    """As LXD lays them out; the counters are CRIU's own bytes: 300 pages written, 20 skipped."""
    for name, pages in (("001", 8192), ("003", 4096), ("final", 2048)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pages-1.img").write_bytes(b"x" * pages)
        (tmp_path / name / "core-1.img").write_bytes(b"x" * 10)
        if name != "final":
            record = bytes([0x0A, 5, 0x30, 20, 0x38, 0xAC, 0x02])
            (tmp_path / name / "stats-dump").write_bytes(b"m" * 8 + len(record).to_bytes(4, "little") + record)
    found = gate.dumped(["criu", "dump", "-D", str(tmp_path / "final"), "-v4"])
    assert (found["pages_bytes"], found["images_bytes"]) == (2048, 2058)
    assert [(r["pages_written"], r["pages_skipped_parent"], r["bytes"]) for r in found["rounds"]] == [
        (300, 20, 8192),
        (300, 20, 4096),
    ]
    assert gate.dumped(["criu", "dump"]) == {"pages_bytes": 0, "images_bytes": 0, "rounds": []}
