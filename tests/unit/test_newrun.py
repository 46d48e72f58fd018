"""Many moves that a script starts in one second: two may draw the same id, and each has a journal of its own."""

from __future__ import annotations

import pytest

from reberth.run import begin
from reberth.run.journal import Journal, runs


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_an_id_that_is_taken_is_drawn_again(world, monkeypatch):
    drawn = world.plan()
    drawn_again = iter([drawn.id, "20261128-172811-0002"])
    monkeypatch.setattr(begin, "run_id", lambda: next(drawn_again))
    first, journal = begin.begin(drawn)
    second, other = begin.begin(drawn)
    assert (first, second.id) == (drawn, "20261128-172811-0002")
    assert sorted(runs()) == sorted([first.id, second.id])
    for plan, its in ((first, journal), (second, other)):
        assert [record["event"] for record in Journal(plan.id).records] == ["plan", "controller"]
        assert its.last("plan")["plan"]["id"] == plan.id
