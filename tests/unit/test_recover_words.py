"""`recover` with words about a node that never comes back, beside lost journals, and of runs of another version."""

from __future__ import annotations

import json

import pytest
from test_recover import host_of, kill_at, theatre  # noqa: F401
from theatre import PLAN, own_state  # noqa: F401

from reberth.commands.recover import recover
from reberth.run import opened
from reberth.run.journal import Journal
from reberth.run.outcome import is_unfinished


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    from reberth.run import session

    monkeypatch.setattr(session, "GIVE_UP_S", 0.0)


def lose(end):
    """The controller is gone, and the node acts on that."""
    if end.helper:
        end.run(end.lost())


def test_a_target_that_never_comes_back_and_comes_back(theatre):  # noqa: F811
    """The commands that end the run, and the same target later: it is told, and nothing is open any more."""
    stage = theatre()
    kill_at(stage, "step", "permit")
    stage.target.reachable = False
    for how in ("auto", "rollback", "forward"):
        report = recover(host_of(stage), PLAN.id, how, False)[0]
        assert (report.outcome, report.exit_code) == ("held", 40)
        assert f"reberth recover {PLAN.id} --rollback --target-is-gone" in str(report.error)
    assert stage.source.frozen
    report = recover(host_of(stage), PLAN.id, "rollback", False, ("target_is_gone",))[0]
    assert (report.outcome, report.owner, report.exit_code) == ("rolled-back", "source", 0)
    assert stage.source.running and stage.source.has("note-target-is-gone")
    assert "node b could not be told" in str(report.warnings)
    journal = Journal(PLAN.id)
    assert journal.last("word")["target_is_gone"] is True
    assert opened.untold(journal) == ("target",) and is_unfinished(journal)
    stage.target.reachable = True
    report = recover(host_of(stage), PLAN.id, "auto", False)[0]
    assert (report.outcome, report.exit_code) == ("rolled-back", 0)
    assert (stage.target.verdict, stage.target.copy, stage.target.ended) == ("ABORT", "none", "rolled-back")
    assert not is_unfinished(Journal(PLAN.id))


def test_a_target_that_was_not_gone_is_named_and_its_copy_ended_by_a_word(theatre):  # noqa: F811
    stage = theatre()
    kill_at(stage, "step", "commit")
    stage.target.reachable = False
    recover(host_of(stage), PLAN.id, "rollback", False, ("target_is_gone",))
    assert stage.source.running and stage.target.copy == "running"  # as the word said what was not so
    stage.target.reachable = True
    report = recover(host_of(stage), PLAN.id, "auto", False)[0]
    assert (report.outcome, report.exit_code) == ("held", 40)
    assert "a copy runs on the target as well" in str(report.error)
    report = recover(host_of(stage), PLAN.id, "rollback", False)[0]
    assert (report.outcome, report.owner, stage.target.copy) == ("rolled-back", "source", "none")


def test_a_source_that_never_comes_back_and_comes_back(theatre):  # noqa: F811
    stage = theatre()
    kill_at(stage, "step", "ask-ready")
    stage.source.reboot()
    stage.source.reachable = False
    lose(stage.target)
    assert stage.target.copy == "held" and stage.target.verdict is None
    report = recover(host_of(stage), PLAN.id, "auto", False)[0]
    assert (report.outcome, report.exit_code) == ("held", 40)
    assert f"reberth recover {PLAN.id} --forward --source-is-dead" in str(report.error)
    report = recover(host_of(stage), PLAN.id, "forward", False, ("source_is_dead",))[0]
    assert (report.outcome, report.owner, report.exit_code) == ("moved", "target", 0)
    assert stage.target.copy == "running" and stage.target.has("note-source-is-dead")
    assert opened.untold(Journal(PLAN.id)) == ("source",)
    stage.source.reachable = True
    report = recover(host_of(stage), PLAN.id, "auto", False)[0]
    assert (report.outcome, report.exit_code, stage.source.ended) == ("moved", 0, "moved")
    assert not is_unfinished(Journal(PLAN.id))


def test_both_nodes_are_gone(theatre):  # noqa: F811
    stage = theatre()
    kill_at(stage, "step", "permit")
    stage.source.reachable = stage.target.reachable = False
    report = recover(host_of(stage), PLAN.id, "auto", False, ("source_is_dead", "target_is_gone"))[0]
    assert (report.outcome, report.exit_code) == ("ended", 21)


def test_what_was_typed_in_vain_is_not_remembered(theatre):  # noqa: F811
    """The node answered, so the word changed nothing; when it is away later, it has to be typed again."""
    stage = theatre()
    kill_at(stage, "step", "ask-ready")
    stage.source.reachable = stage.target.reachable = False
    recover(host_of(stage), PLAN.id, "forward", False, ("source_is_dead",))
    stage.target.reachable = True
    report = recover(host_of(stage), PLAN.id, "auto", False)[0]
    assert (report.outcome, stage.target.verdict) == ("held", None)


@pytest.mark.parametrize(
    ("side", "at", "how", "outcome"),
    [
        ("source", "permit", "rollback", "rolled-back"),
        ("source", "permit", "forward", "moved"),
        ("source", "commit", "forward", "moved"),
        ("target", "commit", "rollback", "rolled-back"),
        ("target", "commit", "forward", "moved"),
    ],
)
def test_a_lost_journal_is_held_until_a_word(theatre, side, at, how, outcome):  # noqa: F811
    stage = theatre()
    kill_at(stage, "step", at)
    stage.source.helper = stage.target.helper = True
    getattr(stage, side).wipe()
    report = recover(host_of(stage), PLAN.id, "auto", False)[0]
    assert (report.exit_code, report.outcome) == ((41, "moved") if (side, at) == ("source", "commit") else (40, "held"))
    name = "a" if side == "source" else "b"
    assert f"{name} knows nothing of a run that was opened there" in str(report.error) + str(report.warnings)
    report = recover(host_of(stage), PLAN.id, how, False)[0]
    assert (report.outcome, report.exit_code) == (outcome, 0), (report.warnings, report.error)
    assert stage.source.running is (outcome == "rolled-back")
    assert (stage.target.copy == "running") is (outcome == "moved")


def test_a_run_of_a_newer_version_is_left_as_it_is(theatre):  # noqa: F811
    stage = theatre()
    kill_at(stage, "step", "permit")
    path = Journal(PLAN.id).dir / "journal.jsonl"
    lines = path.read_text().splitlines()
    first = {**json.loads(lines[0]), "format": 2, "version": "9.1"}
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    found = recover(host_of(stage), PLAN.id, "rollback", False)[0]
    assert (found["outcome"], found["exit_code"]) == ("held", 40)
    assert "reberth 9.1" in found["why"] and stage.source.frozen
    assert path.read_text().splitlines()[1:] == lines[1:]
