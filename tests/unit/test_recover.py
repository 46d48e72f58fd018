"""`recover` from the controller's journal alone, on both ends in memory, wherever the controller died."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
from theatre import PLAN, Theatre, own_state  # noqa: F401

from reberth.commands.recover import plan_from, recover
from reberth.run.journal import Journal
from reberth_hooks import Channel, HelperError, Mode, Options, UsageError, plain


class KilledError(BaseException):
    """The controller's process ends here."""


@pytest.fixture
def theatre(make_plugin):
    return lambda **options: Theatre(make_plugin, **options)


def host_of(stage: Theatre) -> SimpleNamespace:
    """What `recover` needs of the host."""
    return SimpleNamespace(
        stage=stage.stage, way=lambda plan: stage.reconnect, observe=lambda: None, open_runs=lambda: [PLAN.id]
    )


def kill_at(stage: Theatre, event: str, name: str) -> None:
    """Run until this record is on disk, and no further."""
    write = stage.journal.write

    def watched(kind: str, **data: object) -> None:
        write(kind, **data)
        if kind == event and name in (data.get("name"), data.get("step"), data.get("key"), ""):
            raise KilledError

    stage.journal.write = watched
    with pytest.raises(KilledError):
        stage.engine.run()
    for shell in stage.shells:
        shell.kill()
    stage.journal.write = write


def left_alone(stage: Theatre) -> None:
    for end in stage.ends:
        if end.opened and end.helper:
            end.run(end.lost())


RECORDS = [
    ("opening", ""), ("phase", "prepare"), ("note", "images.source"), ("phase", "initial-sync"),
    ("phase", "final-dump"),
    ("note", "images_bytes"), ("phase", "final-transfer"), ("phase", "final-sync"), ("phase", "restore"),
    ("phase", "commit"), ("step", "ask-ready"), ("step", "permit"), ("step", "commit"), ("step", "finish"),
    ("note", "committed"), ("end", ""),
]  # fmt: skip


@pytest.mark.parametrize("helpers", ["live", "left", "killed"])
@pytest.mark.parametrize(("event", "name"), RECORDS)
@pytest.mark.parametrize("how", ["auto", "forward"])
def test_killed_right_after_any_record(theatre, event, name, how, helpers):
    stage = theatre()
    kill_at(stage, event, name)
    if helpers == "left":
        left_alone(stage)
    if helpers == "killed":
        stage.source.die()
        stage.target.die()
    report = recover(host_of(stage), PLAN.id, how, False)[0]
    assert (report.outcome, report.exit_code) in (("moved", 0), ("rolled-back", 0))
    if report.outcome == "moved":
        assert stage.target.copy == "running" and not stage.source.tasks
    else:
        assert stage.source.running and stage.target.copy == "none"
    assert {e.ended for e in stage.ends if e.opened} <= {report.outcome}
    again = recover(host_of(stage), PLAN.id, "auto", False)[0]
    assert (again.outcome, again.exit_code) == (report.outcome, 0)
    events = [r["event"] for r in Journal(PLAN.id).records]
    assert "recover" in events and events[-1] == "end"


@pytest.mark.parametrize("step", ["ask-ready", "permit", "commit", "finish", "abort", "resume-aborted"])
def test_recover_itself_may_be_killed(theatre, step):
    stage = theatre()
    kill_at(stage, "step", "permit")
    write, killed = Journal.write, []

    def watched(self: Journal, kind: str, **data: object) -> None:
        write(self, kind, **data)
        if kind == "step" and data["step"] == step and not killed:
            killed.append(step)
            raise KilledError

    try:
        Journal.write = watched
        for _ in range(2):
            try:
                report = recover(host_of(stage), PLAN.id, "auto", False)[0]
                break
            except KilledError:
                claim = Journal(PLAN.id)
                claim.write("controller", pid=2**22 + 1, start_ticks=1)  # that process is gone
    finally:
        Journal.write = write
    assert bool(killed) is (step in ("abort", "resume-aborted"))
    assert report.outcome == "rolled-back" and stage.source.running and stage.target.copy == "none"


def test_forward_goes_on_where_both_are_still_held(theatre):
    stage = theatre()
    kill_at(stage, "step", "permit")
    report = recover(host_of(stage), PLAN.id, "forward", False)[0]
    assert report.outcome == "moved" and stage.target.copy == "running"


def test_a_failed_landing_is_held_until_the_word_is_given(theatre):
    stage = theatre()
    kill_at(stage, "step", "permit")
    stage.target.verdict = "PERMIT"
    stage.target.die()
    report = recover(host_of(stage), PLAN.id, "auto", False)[0]
    assert (report.outcome, report.exit_code) == ("held", 40)
    assert stage.source.frozen and stage.source.tasks
    report = recover(host_of(stage), PLAN.id, "rollback", False)[0]
    assert (report.outcome, report.exit_code) == ("rolled-back", 0)
    assert stage.source.running


@pytest.mark.parametrize("side", [0, 1])
def test_an_end_that_is_away_is_never_taken_for_one_that_knows_nothing(theatre, side):
    stage = theatre()
    kill_at(stage, "step", "commit")  # PERMIT stands, the copy runs
    stage.ends[side].reachable = False
    report = recover(host_of(stage), PLAN.id, "auto", False)[0]
    assert (report.outcome, report.exit_code) == (("moved", 41) if side == 0 else ("held", 40))
    assert stage.source.frozen and stage.source.tasks
    stage.ends[side].reachable = True
    report = recover(host_of(stage), PLAN.id, "auto", False)[0]
    assert (report.outcome, report.exit_code) == ("moved", 0)
    assert not stage.source.tasks


def test_an_end_that_cannot_be_adopted_is_never_taken_for_one_that_knows_nothing(theatre):
    stage = theatre()
    kill_at(stage, "step", "permit")
    stage.target.verdict = "ABORT"
    host, connect = host_of(stage), stage.reconnect

    def unwilling(name: str):
        shell = connect(name)
        if name == "a":
            shell.broken["adopt"] = [HelperError("cannot", kind="os")] * 9
        return shell

    host.way = lambda plan: unwilling
    report = recover(host, PLAN.id, "auto", False)[0]
    assert (report.outcome, report.exit_code) == ("held", 40)
    assert stage.source.ended == ""


def test_a_dry_run_writes_nothing(theatre):
    stage = theatre()
    kill_at(stage, "step", "permit")
    before = stage.events()
    preview = recover(host_of(stage), PLAN.id, "auto", True)[0]
    assert (preview["step"], preview["source"]["vote"], preview["target"]["verdict"]) == ("abort", "READY", None)
    assert [r["event"] for r in Journal(PLAN.id).records] == before
    assert stage.source.frozen and stage.target.copy == "held"


def test_a_run_that_somebody_drives_is_left_alone(theatre):
    stage = theatre()
    kill_at(stage, "step", "permit")
    stage.journal.claim()
    for how in ("auto", "rollback"):
        with pytest.raises(UsageError, match=f"driven by process {os.getpid()}"):
            recover(host_of(stage), PLAN.id, how, False)
    stage.journal.write("end", outcome="held", owner="nobody", exit_code=40)
    stage.journal.claim()  # a recover of the held run is under way
    with pytest.raises(UsageError, match="driven by process"):
        recover(host_of(stage), PLAN.id, "auto", False)


def test_a_run_without_a_plan_never_touched_anything(theatre):
    journal = Journal("20260101-000000-none")
    journal.write("controller", pid=2**22 + 1, start_ticks=1)
    found = recover(host_of(theatre()), "20260101-000000-none", "auto", False)[0]
    assert found["outcome"] == "refused"


def test_an_unknown_run_is_a_usage_error(theatre):
    for name in ("nothing", "../x", "a/b"):
        with pytest.raises(UsageError, match="there is no run"):
            recover(host_of(theatre()), name, "auto", False)
        for path in Journal(PLAN.id).dir.iterdir():
            path.unlink()


def test_the_plan_survives_its_journal():
    plan = replace(PLAN, options=Options(mode=Mode.AUTO, skip=("tcp",), on_failure="rollback", timeout_s=3.0))
    again = plan_from(plain(plan))
    assert again == replace(plan, checks=(), facts={})


OTHER = {Mode: Mode.PRE_COPY, bool: True, int: 7, float: 7.5, str: "other", tuple: ("a", "b"), dict: {"a": [1]}}


def test_every_field_of_plan_and_options_survives_its_journal():
    """A field that is new must not be lost in silence; checks and facts are left out on purpose."""
    given = {one.name: _other(getattr(PLAN.options, one.name)) for one in fields(Options)}
    simple = {one.name: getattr(PLAN, one.name) for one in fields(PLAN)}
    simple = {name: _other(value) for name, value in simple.items() if type(value) in OTHER and name != "id"}
    plan = replace(PLAN, **{**simple, "options": Options(**given), "routes": {Channel.FILES.value: "wire"}})
    again = plan_from(json.loads(json.dumps(plain(plan))))
    for one in fields(Options):
        assert getattr(again.options, one.name) == getattr(plan.options, one.name), one.name
    for one in fields(PLAN):
        if one.name not in ("checks", "facts"):
            assert getattr(again, one.name) == getattr(plan, one.name), one.name


def _other(value):
    """Another value of the same type."""
    return not value if isinstance(value, bool) else OTHER[type(value)]


@pytest.mark.parametrize(("routes", "managed"), [({"files": "box"}, True), ({"files": "wire"}, False)])
def test_a_plan_of_the_first_version_says_by_its_routes_whether_daemons_carry_it(routes, managed):
    old = {key: value for key, value in plain(replace(PLAN, routes=routes)).items() if key != "managed"}
    assert plan_from(old).managed is managed
