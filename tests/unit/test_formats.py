"""Journals of other versions: those of each released format are read, newer ones refused, older ones translated."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from reberth.node.errors import OpError
from reberth.node.runs import run
from reberth.node.runs.source import Source
from reberth.node.runs.target import Target
from reberth.node.system import formats
from reberth.node.system.durable import Journal

KEPT = Path(__file__).parents[1] / "fixtures" / "journals"


@pytest.mark.parametrize("name", sorted(path.name for path in KEPT.iterdir()))
def test_a_recorded_journal_of_a_released_format_is_read(name):
    journal = Journal(str(KEPT / name / "journal.jsonl"))
    journal.readable()
    assert journal.records[0]["format"] == int(name.split("-")[0].removeprefix("format")) <= formats.FORMAT
    assert journal.records[-1]["event"] == "end"


def test_every_format_has_a_recorded_journal_and_a_reader():
    known = {int(path.name.split("-")[0].removeprefix("format")) for path in KEPT.iterdir()}
    assert known == set(range(1, formats.FORMAT + 1))
    assert set(formats.READERS) == set(range(1, formats.FORMAT))


@pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")
@pytest.mark.parametrize(("name", "role"), [("format1-source", Source), ("format1-target", Target)])
def test_its_facts_are_those_of_a_run_that_moved(name, role, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STATE", str(tmp_path))
    shutil.copytree(KEPT / name, tmp_path / "r1")
    facts = role(run.Run.load("r1")).facts()
    assert facts["ended"] == "moved" and not facts["lost"]
    assert facts["released"] if role is Source else facts["landed"] and facts["cleaned"]


@pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")
def test_a_newer_one_is_refused_with_the_version_that_wrote_it(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STATE", str(tmp_path))
    (tmp_path / "r1").mkdir()
    first = {"seq": 0, "event": "open", "format": formats.FORMAT + 1, "version": "9.1", "role": "source"}
    (tmp_path / "r1" / "journal.jsonl").write_text(json.dumps(first) + "\n")
    with pytest.raises(OpError, match=r"reberth 9\.1") as caught:
        run.Run.load("r1")
    assert caught.value.kind == "newer-format"
    run.Run.open("r2", "source", "criu/9").end("moved")  # it is in nobody's way


def test_an_older_one_is_read_by_its_own_table(monkeypatch):
    monkeypatch.setattr(formats, "FORMAT", 3)
    monkeypatch.setitem(formats.READERS, 1, lambda records: [{**r, "role": r["side"]} for r in records])
    monkeypatch.setitem(formats.READERS, 2, lambda records: [{**r, "event": "open"} for r in records])
    assert formats.translated([{"format": 1, "event": "begin", "side": "source"}], "r1")[0]["role"] == "source"
    assert formats.translated([{"format": 2, "event": "begin"}], "r1")[0]["event"] == "open"
    with pytest.raises(OpError, match="which nothing reads"):
        formats.translated([{"format": 0, "event": "x"}], "r1")
