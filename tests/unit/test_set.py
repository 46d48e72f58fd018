"""`reberth set`: who hears a wish, and who would not."""

from __future__ import annotations

import pytest
from theatre import PLAN

from reberth.config.config import Config
from reberth.host import Host
from reberth.run.journal import Journal
from reberth_hooks import UsageError, plain


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of this process, of a plan that a test may change."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("REBERTH_PLUGINS", "")

    def make(**changes):
        journal = Journal(PLAN.id)
        journal.write("plan", format=1, plan={**plain(PLAN), **changes})
        journal.claim()
        return journal

    return make


def test_a_wish_is_left_for_the_process_that_drives_the_run(run):
    run()
    assert Host(Config({})).change(PLAN.id, {"bandwidth_bytes_s": 5}) == {"id": PLAN.id, "bandwidth_bytes_s": 5}


def test_daemons_that_carry_a_run_hear_none(run):
    journal = run(routes={"files": "box", "memory": "box"}, managed=True)
    with pytest.raises(UsageError, match="hears nothing meanwhile"):
        Host(Config({})).change(PLAN.id, {"bandwidth_bytes_s": 5})
    assert not (journal.dir / "wishes.json").exists()


def test_a_run_that_has_ended_hears_none(run):
    run().write("end", outcome="moved")
    with pytest.raises(UsageError, match="no process drives"):
        Host(Config({})).change(PLAN.id, {"bandwidth_bytes_s": 5})
