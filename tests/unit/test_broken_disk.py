"""A disk that is full, broken or read-only, here and on the nodes: the workload has an owner, who is named."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_recover import host_of, kill_at
from theatre import Theatre, own_state  # noqa: F401

from reberth.commands.recover import recover
from reberth.node.errors import OpError
from reberth.node.runs import run as run_module
from reberth.node.runs.run import Run
from reberth.node.system import durable
from reberth.report.report import Report
from reberth.run import begin, journal
from reberth.run.journal import Journal
from reberth_hooks import ConnectionLostError, RefusedError, UsageError

CODES = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS]


@pytest.fixture
def theatre(make_plugin):
    return lambda **options: Theatre(make_plugin, **options)


@pytest.fixture
def broken(monkeypatch):
    """From the call of `at` on the controller's disk takes nothing; `mend` lets it work again."""

    class Disk:
        code = 0

        def at(self, code: int) -> None:
            self.code = code

    disk, append, save = Disk(), durable.Journal._append, Report.save

    def refuse(real, self, *words):
        if disk.code:
            raise OSError(disk.code, os.strerror(disk.code))
        return real(self, *words)

    monkeypatch.setattr(durable.Journal, "_append", lambda self, data: refuse(append, self, data))
    monkeypatch.setattr(Report, "save", lambda self, path: refuse(save, self, path))
    return disk


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("where", ["prepare", "sync", "checkpoint", "restore"])
def test_a_disk_that_breaks_in_a_phase_ends_with_the_workload_on_the_source(theatre, broken, where, code):
    stage = theatre()
    stage.box.fail[where] = [lambda: broken.at(code)]
    report = stage.engine.run()
    assert (report.outcome, report.owner, report.exit_code) in (("rolled-back", "source", 20), ("moved", "target", 0))
    assert stage.source.running is (report.outcome == "rolled-back")
    if report.error:
        assert report.error["code"] == "disk" and os.strerror(code) in report.error["message"]
    assert any("disk" in text for text in report.warnings)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(("side", "op"), [(0, "vote"), (1, "decide"), (0, "release"), (1, "finish"), (0, "end")])
def test_a_disk_that_breaks_while_the_run_is_settled_changes_nothing(theatre, broken, side, op, code):
    stage = theatre()
    stage.shells[side].broken[op] = [lambda: broken.at(code)]
    report = stage.engine.run()
    assert (report.outcome, report.owner, report.exit_code) == ("moved", "target", 0)
    assert (stage.source.tasks, stage.target.copy) == (False, "running")
    broken.at(0)
    again = recover(host_of(stage), stage.plan.id, "auto", False)[0]
    assert (again.outcome, again.owner, again.exit_code) == ("moved", "target", 0)


@pytest.mark.parametrize("code", CODES)
def test_recover_needs_no_disk(theatre, broken, code):
    stage = theatre()
    kill_at(stage, "step", "permit")
    broken.at(code)
    report = recover(host_of(stage), stage.plan.id, "auto", False)[0]
    assert (report.outcome, report.owner, report.exit_code) == ("rolled-back", "source", 0)
    assert stage.source.running and stage.target.copy == "none"


def test_what_nobody_foresaw_in_the_settling_is_held_and_never_a_crash(theatre):
    stage = theatre()
    stage.shells[0].broken["vote"] = [ZeroDivisionError("x")]
    report = stage.engine.run()
    assert (report.outcome, report.owner, report.exit_code) == ("held", "nobody", 40)
    assert "ZeroDivisionError" in report.error["message"]


def test_the_report_is_there_before_the_nodes_are_told(theatre):
    stage, seen = theatre(), []
    look = lambda: seen.append(Report.load(stage.journal.dir / "report.json").outcome)  # noqa: E731
    stage.shells[0].broken["end"] = [look]
    assert stage.run().exit_code == 0
    assert seen == ["moved"]


def test_a_report_that_finds_no_room_takes_the_reserve(theatre, monkeypatch):
    stage = theatre()
    durable.lay_reserve(str(stage.journal.dir))
    save = Report.save

    def tight(self, path):
        if (path.parent / durable.RESERVE).exists():
            raise OSError(errno.ENOSPC, "full")
        save(self, path)

    monkeypatch.setattr(Report, "save", tight)
    report = stage.run()
    assert report.exit_code == 0 and not any("disk" in text for text in report.warnings)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_a_disk_that_takes_nothing_from_the_beginning_is_said_before_anything(world, broken, monkeypatch, code):
    def no_room(path, text, mode=0o600):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(durable, "write_whole", no_room)
    with pytest.raises((UsageError, RefusedError), match=os.strerror(code)) as caught:
        begin.begin(world.plan())
    assert str(journal.runs_dir()) in caught.value.message and "XDG_STATE_HOME" in caught.value.hint
    assert caught.value.exit_code == (2 if code in (errno.EACCES, errno.EROFS) else 10)
    assert list(journal.runs_dir().iterdir()) == []


def test_looking_makes_no_folder(tmp_path):
    assert journal.runs() == []
    with pytest.raises(UsageError, match="no run"):
        journal.run_dir("20260101-000000-aaaa")
    Journal("20260101-000000-aaaa")
    assert not (tmp_path / "reberth").exists()


# Two that would drive one run


def test_two_never_drive_one_run(theatre):
    stage = theatre()
    kill_at(stage, "step", "permit")
    code = f"from reberth.run.journal import Journal; Journal({stage.plan.id!r}).claim()\nprint(1, flush=True); input()"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    words = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    with subprocess.Popen([sys.executable, "-c", code], **words) as other:
        assert other.stdout.readline() == "1\n"
        for how in ("forward", "rollback"):
            with pytest.raises(UsageError, match=f"driven by process {other.pid}"):
                recover(host_of(stage), stage.plan.id, how, False)
        other.communicate("\n")
    assert recover(host_of(stage), stage.plan.id, "auto", False)[0].exit_code == 0


def test_a_claim_that_came_between_look_and_lock_is_seen_by_the_lock(theatre):
    """Both have read a journal without a driver; the second one's records never come between the first one's."""
    stage = theatre()
    kill_at(stage, "step", "permit")
    first, second = Journal(stage.plan.id), Journal(stage.plan.id)
    first.claim()
    with pytest.raises(UsageError, match=f"driven by process {os.getpid()}"):
        second.claim()
    first.write("step", step="commit")
    first.release()
    second.claim()
    assert [r["event"] for r in second.records[-3:]] == ["controller", "step", "controller"]
    assert [r["seq"] for r in second.records] == list(range(len(second.records)))


# What recover says


def test_what_stopped_the_run_is_no_error_of_a_recover_that_went_well(theatre):
    stage = theatre()

    def cut() -> None:
        stage.target.reachable = False
        raise ConnectionLostError("cut off", hint="try: ssh b true")

    stage.shells[1].broken["decide"] = [cut]
    assert stage.run().exit_code == 40
    stage.target.reachable = True
    report = recover(host_of(stage), stage.plan.id, "auto", False)[0]
    assert report.exit_code == 0 and report.error is None
    assert "it had failed before: cut off" in report.warnings


def test_recover_names_the_node_that_it_waits_for(theatre, monkeypatch):
    from reberth.commands import recover as module

    monkeypatch.setattr(module, "SLOW_S", 0.0)
    stage, told = theatre(), []
    kill_at(stage, "step", "permit")
    stage.target.reachable = False
    host = host_of(stage)
    host.stage.event = lambda event: told.append(event.text)
    recover(host, stage.plan.id, "auto", False)
    assert any("waiting for node b" in text for text in told)


# A node's disk


@pytest.fixture
def node(tmp_path, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("a node's state belongs to root")
    monkeypatch.setattr(run_module, "STATE", str(tmp_path / "state"))
    return Run.open("r1", "source", "criu/7")


def test_a_decision_that_cannot_be_flushed_is_none(node, monkeypatch):
    """The kernel tells of a lost write once: the second flush says nothing, and the word is not on the disk."""
    fsync, failures = os.fsync, [OSError(errno.EIO, "lost")]

    def once(fd):
        if failures and os.path.isdir(f"/proc/self/fd/{fd}"):
            raise failures.pop()
        fsync(fd)

    monkeypatch.setattr(durable.os, "fsync", once)
    with pytest.raises(OSError, match="lost"):
        node.decide("PERMIT")
    assert node.verdict() is None
    assert node.decide("ABORT") == "ABORT"
    assert node.decide("PERMIT") == "ABORT"


def test_a_decision_that_can_be_neither_flushed_nor_withdrawn_is_never_acted_on(node, monkeypatch):
    fsync, failures = os.fsync, [OSError(errno.EIO, "lost")]

    def once(fd):
        if failures and os.path.isdir(f"/proc/self/fd/{fd}"):
            raise failures.pop()
        fsync(fd)

    def stays(path):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(durable.os, "fsync", once)
    monkeypatch.setattr(durable.os, "unlink", stays)
    for _ in range(3):
        with pytest.raises(OSError, match=r"lost|never flushed"):
            node.decide("PERMIT")
        with pytest.raises(OSError, match="never flushed"):
            node.decide("ABORT")


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(("forth", "back"), [("READY", "RESUME"), ("PERMIT", "ABORT")])
def test_a_node_whose_disk_takes_nothing_can_always_go_back(node, monkeypatch, code, forth, back):
    def refuse(*words):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(durable.Journal, "_append", refuse)
    monkeypatch.setattr(durable.os, "link", refuse)
    decide = node.cast_vote if back == "RESUME" else node.decide
    with pytest.raises(OSError, match=os.strerror(code)):
        decide(forth)
    assert decide(back) == back
    monkeypatch.undo()
    assert decide(forth) == back  # said once by this helper, it stands


def test_a_record_whose_flush_failed_is_not_read_back(tmp_path, monkeypatch):
    path = str(tmp_path / "j")
    lines = durable.Journal(path)
    lines.write("first")
    monkeypatch.setattr(durable.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "lost")))
    with pytest.raises(OSError, match="lost"):
        lines.write("released")
    monkeypatch.undo()
    lines.write("second")
    assert [r["event"] for r in durable.Journal(path).records] == ["first", "second"]


def test_a_short_write_is_finished_or_is_an_error(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(durable.os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    durable.write_whole(str(tmp_path / "name"), "PERMIT and more\n")
    assert (tmp_path / "name").read_text() == "PERMIT and more\n"
    monkeypatch.setattr(durable.os, "write", lambda fd, data: 0)
    with pytest.raises(OSError, match="No space"):
        durable.write_whole(str(tmp_path / "name"), "ABORT")
    assert (tmp_path / "name").read_text() == "PERMIT and more\n"
    assert [p.name for p in tmp_path.iterdir()] == ["name"]


def test_a_full_filesystem_takes_the_reserve_or_says_so(tmp_path):
    """A real one: 64 KiB of tmpfs, filled to the last block."""
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "x", tmp_path]).returncode:
        pytest.skip("needs root and mount")
    try:
        durable.lay_reserve(str(tmp_path))
        lines = durable.Journal(str(tmp_path / "journal.jsonl"))
        lines.write("first")
        with pytest.raises(OSError, match="No space"), Path(tmp_path / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        for number in range(60):
            lines.write("resumed", pad="y" * 200, number=number)
        assert len(durable.Journal(lines.path).records) == 61
        with pytest.raises(OpError):
            durable.decide_once(str(tmp_path), "vote", "MAYBE", ("READY",))
        del lines
    finally:
        subprocess.run(["umount", tmp_path], check=True)
