"""The action script, driven by a tool that calls it as criu does: with a helper that lives, and without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from reberth.node.criu.tool import Job
from reberth.node.errors import OpError
from reberth.node.runs import run

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")

# Like criu: a script that fails ends a dump and a restore, but what fails in pre-resume is ignored.
TOOL = """#!/bin/sh
hook=$1 trace=$2; shift 2
for action; do
  CRTOOLS_SCRIPT_ACTION=$action CRTOOLS_INIT_PID=$$ "$hook"; code=$?
  echo "$action $code" >> "$trace"
  [ $code = 0 ] || [ "$action" = pre-resume ] || exit 255
done
"""
HELPER = """
import os, sys, time
from reberth.node.runs import run; from reberth.node.system import orphans as strays
from reberth.node.criu.tool import Job
strays.MARK = os.environ["TEST_MARK"]
run.STATE, run_id, work, fence, name, others, last = sys.argv[1:8]
opened = run.Run.load(run_id)
job = Job(name, opened.dir, work, fence=fence, others=others, keeps_tcp=bool(os.environ.get("TEST_KEEPS")))
job.spawn(sys.argv[8:8 + 1] + [job.script] + sys.argv[9:])
for action in sys.argv[10:]:
    if action in ("pre-dump", "post-dump", "post-restore", "pre-resume"):
        job.wait_hook(action, stall_s=20)
        if action == last:
            break
        job.answer("go")
time.sleep(0.5 * ("sleep" in sys.argv))
print("held", job.pid, flush=True)
time.sleep(60)
"""


class Site:
    """A run, a fence of plain files, a tool, and what it traced."""

    def __init__(self, place, monkeypatch) -> None:
        monkeypatch.setattr(run, "STATE", str(place / "state"))
        self.place, self.run = place, run.Run.open("r1", "source", "criu/7")
        self.fence, self.work, self.tool = place / "cg", place / "work", place / "criu"
        self.fence.mkdir()
        self.work.mkdir()
        (self.fence / "cgroup.freeze").write_text("0\n")
        (self.fence / "cgroup.events").write_text("populated 1\nfrozen 1\n")
        self.tool.write_text(TOOL)
        self.tool.chmod(0o755)

    def job(self, name: str = "dump", others: str = "never") -> Job:
        return Job(name, self.run.dir, str(self.work), fence=str(self.fence), others=others)

    def start(self, job: Job, *actions: str) -> Job:
        job.spawn([str(self.tool), job.script, str(self.place / "trace"), *actions])
        return job

    def trace(self) -> list[str]:
        path = self.place / "trace"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def frozen(self) -> bool:
        return (self.fence / "cgroup.freeze").read_text().strip() == "1"

    def killed_helper(self, name: str, others: str, last: str, *actions: str, keeps="", with_tool=False) -> int:
        """Another process is the helper, and is killed while it holds the tool; returns the tool's pid."""
        words = [str(self.place / "state"), "r1", str(self.work), str(self.fence), name, others, last, str(self.tool)]
        words += [str(self.place / "trace"), *actions]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "TEST_KEEPS": keeps}
        with subprocess.Popen([sys.executable, "-c", HELPER, *words], stdout=subprocess.PIPE, env=env) as helper:
            held = helper.stdout.readline().split()
            if with_tool:
                os.kill(int(held[1]), 9)
            helper.kill()
        assert held[:1] == [b"held"]
        return int(held[1])

    def wait_trace(self, count: int) -> list[str]:
        deadline = time.monotonic() + 10
        while len(self.trace()) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.trace()


@pytest.fixture
def site(tmp_path, monkeypatch):
    return Site(tmp_path, monkeypatch)


DUMP = ("pre-dump", "network-lock", "post-dump")


def test_go_goes_on_and_the_fence_stands_first(site):
    job = site.start(site.job(), *DUMP)
    pid, init, stamp_ns = job.wait_hook("pre-dump", stall_s=10)
    assert site.frozen and pid > 0 and init == job.pid and stamp_ns > 0
    assert job.holds("pre-dump") and not job.holds("post-dump")
    (site.fence / "cgroup.freeze").write_text("0\n")  # criu thaws it to work in it
    job.answer("go")
    job.wait_hook("post-dump", stall_s=10)
    assert site.frozen
    job.answer("go")
    assert job.wait_end(10) == 0
    assert site.trace() == ["pre-dump 0", "network-lock 0", "post-dump 0"]
    assert not job.holds("post-dump")


@pytest.mark.parametrize("action", ["pre-dump", "post-dump"])
def test_a_veto_fails_the_tool_and_leaves_the_thaw_to_the_helper(site, action):
    job = site.start(site.job(), action)
    job.wait_hook(action, stall_s=10)
    job.answer("veto")
    assert job.wait_end(10) == 255
    assert site.trace() == [f"{action} 1"]
    assert site.frozen
    assert site.run.vote() is None


def test_a_fence_that_cannot_be_set_fails_the_dump(site):
    shutil.rmtree(site.fence)
    job = site.start(site.job(), "pre-dump")
    with pytest.raises(OpError) as caught:
        job.wait_hook("pre-dump", stall_s=10)
    assert caught.value.kind == "tool-failed"


def test_actions_of_no_concern_pass_without_a_helper(site):
    job = site.start(site.job(), "pre-stream", "setup-namespaces", "orphan-pts-master", "post-resume", "network-unlock")
    assert job.wait_end(10) == 0
    assert not site.frozen


def test_a_tool_that_ends_first_is_an_error_with_its_own_words(site):
    job = site.job()
    (site.work / "dump.log").write_text("(00.1) fine\n(00.2) Error (criu/x.c:1): cannot do it\n(00.3) Error 2\n")
    site.start(job, "network-lock")
    with pytest.raises(OpError) as caught:
        job.wait_hook("post-dump", stall_s=10)
    assert caught.value.kind == "tool-failed"
    assert caught.value.tail.splitlines()[0] == "(00.2) Error (criu/x.c:1): cannot do it"
    with pytest.raises(OpError):  # and again: the end is not forgotten
        job.wait_hook("post-dump", stall_s=10)


def test_a_tool_that_does_nothing_is_ended(site):
    job = site.job()
    job.spawn(["sleep", "60"])
    with pytest.raises(OpError) as caught:
        job.wait_hook("post-dump", stall_s=0.5)
    assert caught.value.kind == "stalled"
    assert job.wait_end(1) == -15


@pytest.mark.slow
def test_work_of_a_child_counts_as_life(site):
    busy = site.place / "busy"
    busy.write_text(f"#!/bin/sh\n'{sys.executable}' -c 'import time\nwhile time.process_time() < 2.2: pass'\n")
    busy.chmod(0o755)
    job = site.job()
    job.spawn([str(busy)])
    with pytest.raises(OpError) as caught:
        job.wait_hook("post-dump", stall_s=1.2)
    assert caught.value.kind == "tool-failed"  # it ended by itself: nobody took it for dead


@pytest.mark.parametrize("fails", [True, False])
def test_a_tool_that_fails_by_itself_is_not_killed(site, tmp_path, fails):
    """What it works in may die with it; one that does not end is ended all the same."""
    job, gone = site.job("dump"), tmp_path / "gone"
    job.spawn(["sh", "-c", f"while [ ! -e {gone} ]; do sleep 0.05; done; exit 3"])
    job.let_go = gone.touch if fails else lambda: None
    job.stop(grace_s=5.0 if fails else 0.3)
    assert job.process.returncode == (3 if fails else -15)


def test_a_tool_that_ignores_sigterm_is_killed(site):
    stubborn = site.place / "stubborn"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\necho up\nwhile :; do sleep 0.05; done\n")
    stubborn.chmod(0o755)
    job = site.job()
    job.spawn([str(stubborn)])
    deadline = time.monotonic() + 10
    while not os.path.getsize(job.output) and time.monotonic() < deadline:
        time.sleep(0.01)
    job.stop(grace_s=0.2)
    assert job.wait_end(1) == -9


# Without a helper


@pytest.mark.parametrize("action", ["pre-dump", "post-dump"])
def test_killed_before_ready_the_script_votes_resume_and_thaws(site, action):
    site.killed_helper("dump", "never", action, *DUMP[: DUMP.index(action) + 1])
    assert site.wait_trace(DUMP.index(action) + 1)[-1] == f"{action} 1"
    assert site.run.vote() == "RESUME"
    assert site.run.cast_vote("READY") == "RESUME"
    assert not site.frozen


def test_killed_after_ready_the_fence_stays(site):
    site.run.cast_vote("READY")
    site.killed_helper("dump", "never", "post-dump", *DUMP)
    assert site.wait_trace(3)[-1] == "post-dump 1"
    assert site.run.vote() == "READY"
    assert site.frozen


def test_gone_before_the_script_starts_is_the_same(site):
    site.killed_helper("dump", "never", "pre-dump", "pre-dump")
    site.wait_trace(1)
    os.unlink(os.path.join(site.run.dir, "vote"))
    script = os.path.join(site.run.dir, "dump.hook")
    for ready, code in ((False, 1), (True, 1)):
        if ready:
            os.unlink(os.path.join(site.run.dir, "vote"))
            site.run.cast_vote("READY")
        env = {"CRTOOLS_SCRIPT_ACTION": "post-dump", "CRTOOLS_INIT_PID": "1"}
        assert subprocess.run([script], env=env, timeout=10).returncode == code
        assert site.run.vote() == ("READY" if ready else "RESUME")
        assert site.frozen is ready


def test_a_run_that_ended_meanwhile_is_thawed_by_its_vote(site):
    site.killed_helper("dump", "never", "pre-dump", "pre-dump")
    site.wait_trace(1)
    script = os.path.join(site.run.dir, "dump.hook")
    with open(script, encoding="ascii") as file:
        text = file.read()
    site.run.end("rolled-back")
    kept = site.place / "kept.hook"  # the script that a shell had opened before it moved
    kept.write_text(text)
    kept.chmod(0o700)
    subprocess.run([str(kept)], env={"CRTOOLS_SCRIPT_ACTION": "post-dump"}, timeout=10, stderr=subprocess.DEVNULL)
    assert not site.frozen


RESTORE = ("post-restore", "pre-resume")


def test_a_held_copy_is_vetoed_and_aborted(site):
    site.killed_helper("restore", "post-restore | pre-resume", "post-restore", *RESTORE)
    assert site.wait_trace(1) == ["post-restore 1"]
    assert site.run.verdict() == "ABORT"
    assert site.run.decide("PERMIT") == "ABORT"


def test_with_a_permit_the_held_copy_is_vetoed_all_the_same(site):
    site.run.decide("PERMIT")
    site.killed_helper("restore", "post-restore | pre-resume", "post-restore", *RESTORE)
    assert site.wait_trace(1) == ["post-restore 1"]
    assert site.run.verdict() == "PERMIT"


def test_a_copy_that_was_let_go_is_fenced_before_anybody_is_asked(site):
    """CRIU ignores what fails in pre-resume: only the fence keeps a copy silent that nobody saw land."""
    with open(os.path.join(site.run.dir, "fence"), "w", encoding="ascii") as file:
        file.write(f"{site.fence}\n")
    site.run.decide("PERMIT")
    site.killed_helper("restore", "post-restore | pre-resume", "pre-resume", *RESTORE)
    assert site.wait_trace(2) == ["post-restore 0", "pre-resume 1"]
    assert site.frozen
    assert not site.run.journal.has("landed")


def test_the_fence_of_the_copy_stands_with_a_helper_too(site):
    with open(os.path.join(site.run.dir, "fence"), "w", encoding="ascii") as file:
        file.write(f"{site.fence}\n")
    job = site.start(site.job("restore", "post-restore | pre-resume"), *RESTORE)
    job.wait_hook("post-restore", stall_s=10)
    assert not site.frozen  # criu would hang
    job.answer("go")
    job.wait_hook("pre-resume", stall_s=10)
    assert site.frozen
    job.answer("go")
    assert job.wait_end(10) == 0


def test_the_script_needs_no_program_of_its_own(site):
    """Between freeze and resume nothing is started: an empty PATH changes nothing while a helper lives."""
    job = site.job()
    with open(job.script, encoding="ascii") as file:
        text = file.read()
    with open(job.script, "w", encoding="ascii") as file:
        file.write(text.replace("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PATH=/nonexistent"))
    site.start(job, *DUMP)
    for action in ("pre-dump", "post-dump"):
        job.wait_hook(action, stall_s=10)
        job.answer("go")
    assert job.wait_end(10) == 0


def wait_until(what) -> bool:
    deadline = time.monotonic() + 10
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
    return what()


@pytest.mark.parametrize(
    ("keeps", "with_tool", "frozen"), [("tcp", True, True), ("tcp", False, False), ("", True, False)]
)
def test_a_criu_that_was_killed_with_its_helper_leaves_the_fence_for_who_heals(keeps, with_tool, frozen, site):
    """Its connections are in repair mode; without any to keep, or with a criu that lives, the tasks run at once."""
    site.killed_helper("dump", "never", "post-dump", *DUMP, keeps=keeps, with_tool=with_tool)
    assert wait_until(lambda: os.path.exists(f"{site.run.dir}/alone"))
    wait_until(lambda: site.frozen is frozen)
    time.sleep(0.2)
    assert (site.run.vote(), site.frozen) == ("RESUME", frozen)


@pytest.mark.parametrize("keeps", ["tcp", ""])
def test_killed_together_in_the_middle_of_a_dump_the_tasks_are_frozen(keeps, site):
    """No script waits then; only with connections to keep there is somebody who watches."""
    dumps = f"[ $action = sleep ] && echo 0 > {site.fence}/cgroup.freeze && exec sleep 60"  # as criu: thawed in between
    site.tool.write_text(TOOL.replace("for action; do", f"for action; do {dumps}"))
    site.killed_helper("dump", "never", "sleep", "pre-dump", "sleep", keeps=keeps, with_tool=True)
    if keeps:
        assert wait_until(lambda: site.frozen)
    else:
        time.sleep(0.5)
        assert not site.frozen


def test_watched_and_ended_in_order_nobody_is_frozen(site):
    job = Job("dump", site.run.dir, str(site.work), fence=str(site.fence), keeps_tcp=True)
    site.start(job, *DUMP)
    for action in ("pre-dump", "post-dump"):
        job.wait_hook(action, stall_s=10)
        job.answer("go")
    assert job.wait_end(10) == 0
    (site.fence / "cgroup.freeze").write_text("0\n")
    time.sleep(0.3)
    assert not site.frozen
