"""Tools that outlived their helper are found by the run's mark alone, and ended; strangers are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from reberth.node.system import orphans, procs

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
