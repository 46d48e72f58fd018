"""The line between helper and action script: it tells at once whether the helper lives, and never by a pid."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys

import pytest

from reberth.node.criu import hook_line, tool
from reberth.node.criu.tool import Job
from reberth.node.runs import run

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")

HELPER = """
import sys
from reberth.node.runs import run
from reberth.node.criu.tool import Job
run.STATE, work, fence, name, others = sys.argv[1:6]
job = Job(name, run.Run.load("r1").dir, work, fence=fence, others=others)
print(job.script, flush=True)
sys.stdin.read()
"""
ACTIONS = (("post-dump", "dump", "never"), ("post-restore", "restore", "post-restore | pre-resume"))
# A user's process under the dead helper's pid: all its descriptors are one pipe, in which the answer lies already.
HOSTILE = """
import os, sys, time
r, w = os.pipe()
os.write(w, b"go\\n" * 8)
for n in range(3, 200):
    if n not in (r, w):
        os.dup2(w, n)
print("ready", flush=True)
time.sleep(60)
"""
AS_USER = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]


class Place:
    """A run, a fence of plain files, and a helper that can be ended."""

    def __init__(self, path, monkeypatch):
        monkeypatch.setattr(run, "STATE", str(path / "state"))
        self.run, self.path = run.Run.open("r1", "source", "criu/7"), path
        self.fence = path / "cg"
        for folder in ("cg", "work"):
            (path / folder).mkdir()
        (self.fence / "cgroup.freeze").write_text("0\n")
        (self.fence / "cgroup.events").write_text("populated 1\nfrozen 1\n")
        with open(os.path.join(self.run.dir, "fence"), "w", encoding="ascii") as file:
            file.write(f"{self.fence}\n")

    def dead_helper(self, name: str, others: str) -> str:
        """Returns the script of a helper that was killed while its tool works."""
        words = [str(self.path / "state"), str(self.path / "work"), str(self.fence), name, others]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", HELPER, *words], env=env, text=True, **pipes) as helper:
            script = helper.stdout.readline().strip()
            helper.kill()
        return script

    def call(self, script: str, action: str) -> int:
        env = {"CRTOOLS_SCRIPT_ACTION": action, "CRTOOLS_INIT_PID": "4711"}
        return subprocess.run(["/bin/sh", script], env=env, timeout=20, check=False).returncode


@pytest.fixture
def place(tmp_path, monkeypatch):
    return Place(tmp_path, monkeypatch)


def stands(place) -> tuple[str | None, str | None]:
    return place.run.vote(), place.run.verdict()


@pytest.mark.parametrize(("action", "name", "others"), ACTIONS)
def test_without_its_helper_the_script_acts_alone(place, action, name, others):
    assert place.call(place.dead_helper(name, others), action) == 1
    assert stands(place) == (("RESUME", None) if action == "post-dump" else (None, "ABORT"))


@pytest.mark.parametrize(("action", "name", "others"), ACTIONS)
def test_who_gets_the_pid_of_a_dead_helper_is_never_asked(place, action, name, others):
    """The script's own words hold no pid; one that a user has is put in all the same, where one could be read."""
    script = place.dead_helper(name, others)
    with open(script, encoding="ascii") as file:
        text = file.read()
    with subprocess.Popen([*AS_USER, "/usr/bin/python3", "-c", HOSTILE], stdout=subprocess.PIPE) as hostile:
        assert hostile.stdout.readline() == b"ready\n"
        with open(script, "w", encoding="ascii") as file:
            file.write(re.sub(r"/proc/[0-9]+/", f"/proc/{hostile.pid}/", text))
        assert place.call(script, action) == 1
        hostile.kill()
    assert not re.search(r"/proc/[0-9]", text)
    assert stands(place) == (("RESUME", None) if action == "post-dump" else (None, "ABORT"))


def test_no_other_user_reaches_the_line(place):
    job = Job("dump", place.run.dir, str(place.path / "work"), fence=str(place.fence))
    for path in (job.line.path + ".report", job.line.path + ".answer"):
        found = os.lstat(path)
        assert stat.S_ISFIFO(found.st_mode) and (found.st_mode & 0o777, found.st_uid) == (0o600, 0)
        tried = [*AS_USER, "/bin/sh", "-c", f"echo go 1<>{path} >&1"]
        assert subprocess.run(tried, capture_output=True, check=False).returncode != 0
    assert os.stat(place.run.dir).st_mode & 0o777 == 0o700


def test_a_line_that_is_gone_is_not_made_anew(place):
    script = place.dead_helper("dump", "never")
    before = {name for name in os.listdir(place.run.dir) if not name.endswith((".report", ".answer"))}
    for name in set(os.listdir(place.run.dir)) - before:
        os.unlink(os.path.join(place.run.dir, name))
    assert place.call(script, "post-dump") == 1
    assert set(os.listdir(place.run.dir)) == before | {"vote", "alone"}


def test_a_script_that_keeps_its_ends_would_wait_for_ever(place, monkeypatch):
    """The twin: what gives the ends up that are open both ways is what tells of the helper's death."""
    script = place.dead_helper("dump", "never")
    with open(script, encoding="ascii") as file:
        text = file.read()
    assert hook_line.OPEN in text and " 6>&- 7>&-" in text
    with open(script, "w", encoding="ascii") as file:
        file.write(text.replace(" 6>&- 7>&-", ""))
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["/bin/sh", script], env={"CRTOOLS_SCRIPT_ACTION": "post-dump"}, timeout=2, check=False)


def test_a_later_tool_has_a_line_of_its_own(place):
    """A script of the first tool that comes late is not taken for one of the second."""
    first = Job("dump", place.run.dir, str(place.path / "work"), fence=str(place.fence))
    shutil.copy(first.script, place.path / "late")
    first.close()
    second = Job("dump", place.run.dir, str(place.path / "work"), fence=str(place.fence))
    assert place.call(str(place.path / "late"), "post-dump") == 1
    os.set_blocking(second.line.report_r, False)
    with pytest.raises(BlockingIOError):
        os.read(second.line.report_r, 1)


def test_nothing_is_started_on_the_way_through():
    """Between freeze and resume no process begins: outside `alone`, `back` and `broken` only words of the shell."""
    text = re.sub(r"(?s)# An address that moved.*?\n}\n(?=\[ -p)", "", tool.SCRIPT)
    words = {line.split()[0] for line in text.splitlines() if line.strip() and not line.strip().startswith("#")}
    known = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "trap", "case", "esac", "echo", "while", "done", "read", "exec", "["}
    known |= {"command", "tries=0", "tries=$((tries", "done;;"}
    assert {word for word in words if not word.startswith(("@", "*)"))} <= known
