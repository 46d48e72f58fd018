"""A run on a node: its lock, vote and verdict, what is undone and in which order, and where it goes when it ends."""

from __future__ import annotations

import os
import threading

import pytest

from reberth.node.errors import OpError
from reberth.node.runs import run
from reberth.node.runs.run import Run

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    path = tmp_path / "state"
    monkeypatch.setattr(run, "STATE", str(path))
    return path


def test_open_lays_all_out_before_anything_can_need_it(state):
    opened = Run.open("r1", "source", "criu/7", socket="/s", helper=3)
    assert sorted(os.listdir(opened.dir)) == [
        "journal.jsonl", "reserve", "verdict.ABORT", "verdict.PERMIT", "vote.READY", "vote.RESUME",
    ]  # fmt: skip
    assert os.stat(opened.dir).st_mode & 0o777 == 0o700
    assert os.stat(state).st_mode & 0o777 == 0o700
    assert (opened.role, opened.opened("helper"), opened.ended) == ("source", 3, "")
    assert (opened.vote(), opened.verdict()) == (None, None)
    assert run.open_runs() == ["r1"]


def test_the_open_journal_is_the_lock(state):
    first = Run.open("r1", "source", "criu/7")
    with pytest.raises(OpError) as caught:
        Run.open("r2", "target", "criu/7")
    assert (caught.value.kind, caught.value.message) == ("busy", "r1")
    assert not (state / "r2").exists()
    Run.open("r3", "source", "criu/8")
    first.end("rolled-back")
    Run.open("r4", "source", "criu/7")
    assert run.open_runs() == ["r3", "r4"]


def test_only_one_of_many_gets_the_lock():
    barrier, won, busy = threading.Barrier(8), [], []

    def try_it(number: int) -> None:
        barrier.wait()
        try:
            won.append(Run.open(f"r{number}", "source", "runc/web"))
        except OpError as error:
            busy.append(error.kind)

    threads = [threading.Thread(target=try_it, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(won), busy) == (1, ["busy"] * 7)


def test_the_same_id_twice_is_refused():
    Run.open("r1", "source", "criu/7")
    with pytest.raises(FileExistsError):
        Run.open("r1", "source", "criu/9")


def test_votes_and_verdicts_are_cast_once_and_journaled_before():
    opened = Run.open("r1", "source", "criu/7")
    assert opened.cast_vote("RESUME") == "RESUME"
    assert opened.cast_vote("READY") == "RESUME"
    assert opened.decide("PERMIT") == "PERMIT"
    assert opened.decide("ABORT") == "PERMIT"
    events = [(r["event"], r.get("value")) for r in opened.journal.records[1:]]
    assert events == [("voting", "RESUME"), ("deciding", "PERMIT")]  # a wish that comes too late leaves no record
    again = Run.load("r1")
    assert (again.vote(), again.verdict()) == ("RESUME", "PERMIT")


def test_an_ended_run_moves_and_is_still_known(state):
    opened = Run.open("r1", "target", "criu/7")
    opened.cast_vote("READY")
    opened.end("moved")
    opened.end("rolled-back")  # the first end stays
    assert ended_runs(state) == ["r1"]
    assert run.open_runs() == []
    found = Run.load("r1")
    assert (found.ended, found.vote(), found.role) == ("moved", "READY", "target")
    assert Run.load("r2") is None
    found.end("moved")
    assert ended_runs(state) == ["r1"]


def test_which_ended_runs_are_newest_does_not_follow_the_clock(state, monkeypatch):
    """A clock that was set back gives the next run the smallest name: it must not be pruned the moment it ends."""
    monkeypatch.setattr(run, "KEEP_ENDED", 3)
    for name in ("20300101-r1", "20300102-r2", "20300103-r3", "19700101-r4", "19700102-r5"):
        Run.open(name, "source", f"criu/{name}").end("moved")
    assert ended_runs(state) == ["19700101-r4", "19700102-r5", "20300103-r3"]
    (state / "ended" / ".order").unlink()  # as an older version left it
    Run.open("19600101-r6", "source", "criu/6").end("moved")
    assert "19600101-r6" in ended_runs(state) and len(ended_runs(state)) == 3


def test_only_the_newest_ended_runs_are_kept(state, monkeypatch):
    monkeypatch.setattr(run, "KEEP_ENDED", 3)
    for number in range(5):
        Run.open(f"r{number}", "source", f"criu/{number}").end("moved")
    assert ended_runs(state) == ["r2", "r3", "r4"]


def test_an_empty_directory_of_a_crash_is_no_lock(state):
    Run.open("r1", "source", "criu/7").end("moved")
    (state / "r2").mkdir()
    (state / "r3").mkdir()
    (state / "r3" / "journal.jsonl").write_text('{"event":"op')
    Run.open("r4", "source", "criu/7")
    assert Run.load("r2") is None
    assert Run.load("r3").role == ""


@pytest.mark.parametrize("trap", ["owner", "writable", "link"])
def test_a_state_directory_of_somebody_else_is_refused(state, tmp_path, trap):
    if trap == "link":
        (tmp_path / "elsewhere").mkdir()
        state.symlink_to(tmp_path / "elsewhere")
    else:
        state.mkdir(mode=0o700)
    if trap == "owner":
        os.chown(state, 1234, 1234)
    if trap == "writable":
        state.chmod(0o777)
    with pytest.raises(OpError) as caught:
        Run.open("r1", "source", "criu/7")
    assert caught.value.kind == "unsafe"
    assert not (tmp_path / "elsewhere" / "r1").exists()


def test_a_planted_lock_is_not_followed(state, tmp_path):
    state.mkdir(mode=0o700)
    (state / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        Run.open("r1", "source", "criu/7")
    assert not (tmp_path / "elsewhere").exists()


def ended_runs(state):
    return sorted(name for name in os.listdir(state / "ended") if name != ".order")


# What is undone


@pytest.fixture
def opened():
    return Run.open("r1", "target", "runc/web")


def test_undo_is_newest_first_and_only_for_the_occasion(opened, monkeypatch):
    done = []
    monkeypatch.setitem(run.UNDO, "rmtree", lambda record: done.append(record["path"]))
    for on, path in (("abort", "a"), ("commit", "b"), ("always", "c"), ("abort", "d")):
        opened.push_undo(on, "rmtree", path=path)
    assert opened.undo("abort", "always") == []
    assert done == ["d", "c", "a"]
    assert Run.load("r1").undo("commit") == []
    assert done[-1] == "b"


def test_one_that_fails_is_named_and_stops_none_of_the_others(opened, tmp_path):
    (tmp_path / "x").mkdir()
    opened.push_undo("abort", "rmtree", path=str(tmp_path / "x"))
    opened.push_undo("abort", "run", argv=["false"])
    opened.push_undo("abort", "run", argv=["no-such-program-here"])
    failed = opened.undo("abort")
    assert len(failed) == 2
    assert "no-such-program-here" in failed[0] and "false" in failed[1]
    assert not (tmp_path / "x").exists()
    assert opened.journal.last("undo-failed")["failed"] == failed


@pytest.mark.parametrize("words", [("never", "rmtree"), ("abort", "shell"), ("", "")])
def test_an_unknown_undo_is_refused_before_it_is_journaled(opened, words):
    with pytest.raises(OpError):
        opened.push_undo(*words)
    assert not opened.journal.has("undo")


def test_trees_files_links_and_nothing_are_removed_twice_without_harm(opened, tmp_path):
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").write_text("x")
    tree, file, link = tmp_path / "tree", tmp_path / "file", tmp_path / "link"
    (tree / "deep").mkdir(parents=True)
    (tree / "out").symlink_to(keep)
    file.write_text("x")
    link.symlink_to(keep)
    for path in (tree, file, link, tmp_path / "nothing"):
        opened.push_undo("always", "rmtree", path=str(path))
    for _ in range(2):
        assert opened.undo("always") == []
    assert sorted(os.listdir(tmp_path)) == ["keep", "state"]
    assert (keep / "file").read_text() == "x"


def test_a_directory_that_others_use_by_now_stays(opened, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    (theirs / "file").write_text("x")
    opened.push_undo("abort", "rmdir", path=str(ours))
    opened.push_undo("abort", "rmdir", path=str(theirs))
    failed = opened.undo("abort")
    assert not ours.exists() and (theirs / "file").exists()
    assert len(failed) == 1


def test_what_was_set_aside_comes_back_and_never_over_anything(opened, tmp_path):
    name, aside = tmp_path / "b", tmp_path / "b.aside"
    aside.write_text("old")
    opened.push_undo("abort", "rename", path=str(aside), to=str(name))
    name.write_text("new")
    assert len(opened.undo("abort")) == 1
    assert (name.read_text(), aside.read_text()) == ("new", "old")
    name.unlink()
    for _ in range(2):
        assert opened.undo("abort") == []
    assert name.read_text() == "old" and not aside.exists()


def test_directories_made_for_a_copy_go_again_without_what_others_put_there(opened, tmp_path):
    from types import SimpleNamespace

    from reberth.node.operations import table

    daemon = SimpleNamespace(end=SimpleNamespace(run=opened))
    place = tmp_path / "srv" / "boxes" / "web"
    assert table.make_dirs(daemon, None, path=str(place)) is True
    assert table.make_dirs(daemon, None, path=str(place)) is False
    (place / "rootfs").mkdir()
    (tmp_path / "srv" / "boxes" / "mail").mkdir()  # another move's
    opened.undo("abort")
    assert os.listdir(tmp_path / "srv" / "boxes") == ["mail"]


def test_setting_aside_is_undone_or_removed(opened, tmp_path):
    from types import SimpleNamespace

    from reberth.node.operations import table

    daemon = SimpleNamespace(end=SimpleNamespace(run=opened))
    bundle = tmp_path / "web"
    bundle.mkdir()
    (bundle / "old").write_text("x")
    aside = table.set_aside(daemon, None, path=str(bundle))
    assert os.path.isdir(aside) and not bundle.exists()
    assert opened.undo("abort") == [] and (bundle / "old").exists()
    assert opened.undo("commit") == [] and (bundle / "old").exists()


def test_what_could_not_be_undone_is_tried_again_at_the_end(opened, tmp_path):
    """Only what failed: the rest was done, and its names may be somebody else's by now."""
    here, gone = tmp_path / "here", tmp_path / "gone"
    here.mkdir()
    gone.mkdir()
    opened.push_undo("abort", "rename", path=str(gone), to=str(here))
    opened.push_undo("abort", "rmdir", path=str(tmp_path / "other"))
    assert len(opened.undo("abort")) == 1
    (tmp_path / "other").mkdir()
    here.rmdir()
    assert opened.end("rolled-back") == []
    assert here.is_dir() and not gone.exists() and (tmp_path / "other").is_dir()
    assert opened.end("rolled-back") == []


def test_what_is_still_left_at_the_end_is_answered_each_time(opened, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    opened.push_undo("always", "rename", path=str(tmp_path / "a"), to=str(tmp_path / "b"))
    opened.undo("always")
    for _ in range(2):
        assert "is in the way" in opened.end("moved")[0]
    (tmp_path / "b").rmdir()
    assert opened.end("moved") == []


def test_what_the_end_itself_could_not_undo_is_answered(opened, tmp_path):
    """An occasion of its own: nothing before the end has tried it."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    opened.push_undo("end", "rename", path=str(tmp_path / "a"), to=str(tmp_path / "b"))
    (left,) = opened.end("moved")
    assert "is in the way" in left and opened.ended == "moved"
