"""A directory with a checkpoint as one end of a run: what it was never asked it does not make up."""

from __future__ import annotations

import pytest

from reberth.archive.directory import Directory, _key
from reberth_hooks import HelperError


@pytest.fixture
def directory():
    found = Directory.__new__(Directory)  # without the helper of this machine, which only transfers need
    found.kept = {"answers": {_key("read", {"path": "/config.json"}): "{}"}}
    return found


def test_what_was_asked_when_it_was_written_is_answered_again(directory):
    assert directory.call("read", path="/config.json") == "{}"


@pytest.mark.parametrize("op", ["read", "describe", "cpu_dump"])
def test_any_other_question_is_an_error_and_no_empty_answer(directory, op):
    with pytest.raises(HelperError, match="does not hold") as caught:
        directory.call(op, path="/run/runc/web/state.json")
    assert caught.value.kind == "missing"


def test_a_path_that_nobody_looked_at_is_not_there(directory):
    assert directory.call("stats", paths=["/a", "/b"]) == [None, None]
