"""Files that decide: first writer wins, whatever races; a cut-off line never happened; a full disk is no success."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reberth.node.errors import OpError
from reberth.node.system import durable
from reberth.node.system.durable import Journal, decide_once, decided, lay_ballots, read_text, write_whole

VALUES = ("PERMIT", "ABORT")


@pytest.fixture
def place(tmp_path):
    lay_ballots(str(tmp_path), "verdict", VALUES)
    return str(tmp_path)


def test_nobody_decided(place):
    assert decided(place, "verdict", VALUES) is None


@pytest.mark.parametrize("first", VALUES)
def test_the_first_writer_wins_and_the_second_is_told(place, first):
    second = next(v for v in VALUES if v != first)
    assert decide_once(place, "verdict", first, VALUES) == first
    assert decide_once(place, "verdict", second, VALUES) == first
    assert decided(place, "verdict", VALUES) == first
    assert os.stat(os.path.join(place, "verdict")).st_nlink == 2


def test_threads_that_race_all_read_the_same(place):
    barrier, found = threading.Barrier(16), []

    def vote(value: str) -> None:
        barrier.wait()
        found.append(decide_once(place, "verdict", value, VALUES))

    threads = [threading.Thread(target=vote, args=(VALUES[i % 2],)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 16
    assert len(set(found)) == 1


RACER = """
import sys
from reberth.node.system.durable import decide_once
sys.stdin.readline()
for place in sys.argv[2:]:
    print(decide_once(place, "verdict", sys.argv[1], ("PERMIT", "ABORT")))
"""


def test_processes_that_race_all_read_the_same(tmp_path):
    places = [str(tmp_path / str(i)) for i in range(25)]
    for place in places:
        os.mkdir(place)
        lay_ballots(place, "verdict", VALUES)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, VALUES[i % 2], *places],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )
        for i in range(3)
    ]  # fmt: skip
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=20)[0].split() for racer in racers]
    assert [len(words) for words in answers] == [25] * 3
    assert len({tuple(words) for words in answers}) == 1


@pytest.mark.parametrize("text", ["", "permit", "PERMIT ABORT", "\0", "P", "READY\n"])
def test_a_file_that_says_nothing_known_decides_nothing(place, text):
    write_whole(os.path.join(place, "verdict"), text)
    with pytest.raises(OpError) as caught:
        decided(place, "verdict", VALUES)
    assert caught.value.kind == "unreadable"
    with pytest.raises(OpError):
        decide_once(place, "verdict", "PERMIT", VALUES)


@pytest.mark.parametrize("trap", ["link", "dangling", "directory"])
def test_a_planted_name_is_never_followed(place, trap):
    path = os.path.join(place, "verdict")
    if trap == "directory":
        os.mkdir(path)
    else:
        os.symlink(os.path.join(place, "verdict.PERMIT" if trap == "link" else "nowhere"), path)
    for attempt in (lambda: decided(place, "verdict", VALUES), lambda: decide_once(place, "verdict", "ABORT", VALUES)):
        with pytest.raises(OpError) as caught:
            attempt()
        assert caught.value.kind == "unreadable"


def test_only_known_values_are_ballots(place):
    with pytest.raises(OpError) as caught:
        decide_once(place, "verdict", "MAYBE", VALUES)
    assert caught.value.kind == "bad-argument"
    assert decided(place, "verdict", VALUES) is None


def test_without_its_ballot_a_value_cannot_win(place):
    os.unlink(os.path.join(place, "verdict.PERMIT"))
    with pytest.raises(FileNotFoundError):
        decide_once(place, "verdict", "PERMIT", VALUES)
    assert decided(place, "verdict", VALUES) is None


def test_a_file_is_replaced_whole_and_not_through_a_link(tmp_path):
    target = tmp_path / "target"
    target.write_text("old")
    os.symlink(target, tmp_path / "name")
    write_whole(str(tmp_path / "name"), "new", 0o640)
    assert target.read_text() == "old"
    assert (tmp_path / "name").read_text() == "new"
    assert not (tmp_path / "name").is_symlink()
    assert read_text(str(tmp_path / "none")) is None
    os.symlink(target, tmp_path / "name.new")
    with pytest.raises(OSError, match="symbolic"):
        write_whole(str(tmp_path / "name"), "newer")
    assert target.read_text() == "old"


# The journal


def test_records_are_read_back_in_order(tmp_path):
    path = str(tmp_path / "j")
    journal = Journal(path)
    for number in range(5):
        journal.write("step", number=number)
    again = Journal(path)
    assert [r["number"] for r in again.records] == [0, 1, 2, 3, 4]
    assert [r["seq"] for r in again.records] == [0, 1, 2, 3, 4]
    assert again.last("step")["number"] == 4
    assert again.has("step") and not again.has("other")
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_who_only_reads_creates_nothing_and_holds_nothing(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    kept = [Journal(str(tmp_path / f"j{i}")) for i in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == []
    assert all(j.records == [] for j in kept)


def test_a_journal_gives_its_descriptor_back(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    journal = Journal(str(tmp_path / "j"))
    journal.write("one")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del journal
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("torn", ['{"seq":1,"ev', '{"seq":1,"event":"landed"}', "\x00\xff", '["event"]'])
def test_a_line_that_a_crash_cut_off_never_happened(tmp_path, torn):
    path = str(tmp_path / "j")
    Journal(path).write("first")
    with open(path, "ab") as file:
        file.write(torn.encode("latin-1"))
    journal = Journal(path)
    assert [r["event"] for r in journal.records] == ["first"]
    assert not journal.has("landed")
    journal.write("second")
    assert [r["event"] for r in Journal(path).records] == ["first", "second"]


def test_lines_that_are_no_records_are_passed_over(tmp_path):
    path = tmp_path / "j"
    path.write_text('7\n{}\n\n{"event":"kept"}\nnull\n{"event":')
    assert [r["event"] for r in Journal(str(path)).records] == ["kept"]


def test_a_record_that_the_disk_took_in_part_is_an_error_and_leaves_the_next_one_whole(tmp_path, monkeypatch):
    path = str(tmp_path / "j")
    journal = Journal(path)
    journal.write("first")
    real = os.write
    monkeypatch.setattr(durable.os, "write", lambda fd, data: real(fd, data[:9]))
    with pytest.raises(OSError, match="cut off") as caught:
        journal.write("landed")
    assert caught.value.errno == errno.ENOSPC
    assert not journal.has("landed")
    monkeypatch.undo()
    journal.write("second")
    assert [r["event"] for r in Journal(path).records] == ["first", "second"]


def test_each_record_is_on_disk_before_write_returns(tmp_path, monkeypatch):
    seen = []
    path = str(tmp_path / "j")
    journal = Journal(path)
    real = os.fsync
    monkeypatch.setattr(durable.os, "fsync", lambda fd: (seen.append(Path(path).read_text().count("\n")), real(fd)))
    journal.write("one")
    journal.write("two")
    assert seen == [1, 2]


def test_threads_write_whole_lines(tmp_path):
    path = str(tmp_path / "j")
    journal = Journal(path)
    threads = [threading.Thread(target=lambda: [journal.write("x", pad="y" * 300) for _ in range(20)]) for _ in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    lines = Path(path).read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(80))


def test_a_journal_behind_a_link_is_refused(tmp_path):
    os.symlink(tmp_path / "elsewhere", tmp_path / "j")
    with pytest.raises(OSError, match="symbolic"):
        Journal(str(tmp_path / "j")).write("one")
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_takes_the_reserve_and_then_refuses(tmp_path, monkeypatch):
    """The way back must be journaled even when the disk filled up while the workload was frozen."""
    durable.lay_reserve(str(tmp_path))
    journal = durable.Journal(str(tmp_path / "journal.jsonl"))
    journal.write("first")
    really = os.write

    def full(fd, data):
        if (tmp_path / durable.RESERVE).exists():
            return really(fd, data[:3])
        return really(fd, data)

    monkeypatch.setattr(durable.os, "write", full)
    journal.write("resumed")
    assert [r["event"] for r in durable.Journal(journal.path).records] == ["first", "resumed"]
    assert not (tmp_path / durable.RESERVE).exists()
    monkeypatch.setattr(durable.os, "write", lambda fd, data: really(fd, data[:3]))
    with pytest.raises(OSError, match="cut off"):
        journal.write("never")
    monkeypatch.undo()
    assert [r["event"] for r in durable.Journal(journal.path).records] == ["first", "resumed"]
