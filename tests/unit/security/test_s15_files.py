"""S15: no file of ours is written through a link that somebody planted, nor read half."""

from __future__ import annotations

import pytest

from reberth.node.errors import OpError
from reberth.node.system.durable import Journal, decide_once, decided, lay_ballots, write_whole


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside"
    path.write_text("untouched")
    return path


def test_a_journal_is_not_written_through_a_link(tmp_path, outside):
    (tmp_path / "journal.jsonl").symlink_to(outside)
    with pytest.raises(OSError):
        Journal(str(tmp_path / "journal.jsonl")).write("open")
    assert outside.read_text() == "untouched"


def test_a_decision_is_not_read_through_a_link(tmp_path):
    (tmp_path / "elsewhere").write_text("PERMIT\n")
    (tmp_path / "verdict").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OpError, match="cannot be read"):
        decided(str(tmp_path), "verdict", ("PERMIT", "ABORT"))


def test_a_whole_file_replaces_a_link_and_not_what_it_names(tmp_path, outside):
    (tmp_path / "file").symlink_to(outside)
    write_whole(str(tmp_path / "file"), "new")
    assert outside.read_text() == "untouched" and (tmp_path / "file").read_text() == "new"


def test_without_traps_all_of_it_works(tmp_path):
    Journal(str(tmp_path / "journal.jsonl")).write("open")
    lay_ballots(str(tmp_path), "verdict", ("PERMIT", "ABORT"))
    assert decide_once(str(tmp_path), "verdict", "PERMIT", ("PERMIT", "ABORT")) == "PERMIT"
    assert decided(str(tmp_path), "verdict", ("PERMIT", "ABORT")) == "PERMIT"
    assert Journal(str(tmp_path / "journal.jsonl")).has("open")
