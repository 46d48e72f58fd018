"""The engine with a backend, a transport and two ends in memory: the order of things, and every way they may fail."""

from __future__ import annotations

import os
import signal
import time

import pytest
from theatre import Theatre, own_state  # noqa: F401

from reberth.report.report import Report
from reberth.run.decide import Want
from reberth.run.engine import Engine
from reberth_hooks import ConnectionLostError, HelperError, ReberthError


@pytest.fixture
def theatre(make_plugin):
    return lambda **options: Theatre(make_plugin, **options)


def test_the_order_of_a_run_that_goes_well(theatre):
    stage = theatre()
    report = stage.run()
    assert (report.outcome, report.owner, report.exit_code) == ("moved", "target", 0), report.error
    assert stage.ops() == [
        "a open", "b open", "a dump", "b restore", "a vote", "b decide", "b look", "a release", "b finish", "a end",
            "b end", "a leftovers", "b leftovers",
    ]  # fmt: skip
    kinds = ["filesystem", "images", "filesystem-delta"]
    assert stage.box.calls == ["prepare", "sync", "checkpoint", "restore", kinds, "commit"]
    assert stage.wire.calls == ["receive", *kinds]
    assert (stage.source.tasks, stage.target.copy) == (False, "running")
    assert (stage.source.ended, stage.target.ended) == ("moved", "moved")
    assert report.error is None


def test_what_the_report_measures(theatre):
    report = theatre().run()
    assert [p["name"] for p in report.phases] == [
        "initial-sync", "final-dump", "final-transfer", "final-sync", "restore", "commit",
    ]  # fmt: skip
    assert report.bytes == {"pages": 4096, "images": 904, "memory": 0, "filesystem": 200}
    assert report.frozen_s == pytest.approx(0.2)
    assert report.downtime_s == pytest.approx(2.0 - 5e-7)
    assert report.downtime_error_s == pytest.approx(80e-9)
    assert report.rounds[-1]["pages_written"] == 7
    assert report.stop_reason == "single round"


def test_every_record_is_written_before_its_step(theatre):
    stage = theatre()
    stage.run()
    names = [r.get("name") or r.get("step") or r.get("side") or r.get("key") or "" for r in stage.journal.records]
    assert list(zip(stage.events(), names, strict=True)) == [
        ("plan", ""), ("opening", "source"), ("opening", "target"), ("phase", "prepare"), ("note", "images.source"),
        ("phase", "initial-sync"), ("phase", "final-dump"), ("note", "images_bytes"), ("phase", "final-transfer"),
        ("phase", "final-sync"), ("phase", "restore"), ("phase", "commit"), ("step", "ask-ready"), ("step", "permit"),
        ("step", "look"), ("step", "commit"), ("step", "finish"), ("note", "committed"), ("end", ""),
    ]  # fmt: skip
    kinds = [kind for kind, _ in stage.told]
    assert kinds.count("step") == 5 and kinds[-1] == "end"


FAILED = HelperError("it does not work", kind="tool-failed", tail="why")


@pytest.mark.parametrize("where", ["prepare", "sync", "checkpoint", "restore"])
@pytest.mark.parametrize("error", [FAILED, ReberthError("no"), ConnectionLostError("stalled")])
def test_a_failing_phase_rolls_back(theatre, where, error):
    stage = theatre()
    stage.box.fail[where] = [error]
    report = stage.run()
    assert (report.outcome, report.owner, report.exit_code) == ("rolled-back", "source", 20)
    assert report.error["message"] == error.message
    assert report.error["log_tail"] == error.tail
    assert report.error["phase"] == {"sync": "prepare", "checkpoint": "final-dump"}.get(where, where)
    assert (stage.source.ended, stage.target.ended) == ("rolled-back", "rolled-back")
    assert stage.source.vote == "RESUME" and stage.target.verdict == "ABORT"
    assert "failed" in stage.events() and "rollback" in stage.box.calls and "commit" not in stage.box.calls


@pytest.mark.parametrize("kind", ["filesystem", "images", "filesystem-delta"])
def test_a_failing_transfer_rolls_back_after_the_pipe_is_closed(theatre, kind):
    stage = theatre()
    stage.wire.fail[kind] = [ReberthError("what arrived is not what left")]
    closed_before = []
    stage.session.close_pipe = lambda: closed_before.append(len(stage.ops()))
    report = stage.run()
    assert report.exit_code == 20
    assert closed_before[0] == stage.ops().index("b decide")


def test_a_failing_operation_of_an_end_rolls_back(theatre):
    for side, op in ((0, "dump"), (1, "restore")):
        stage = theatre()
        stage.shells[side].broken[op] = [FAILED]
        report = stage.run()
        assert (report.exit_code, report.error["log_tail"]) == (20, "why")
        stage.journal.dir.rename(stage.journal.dir.with_name(f"old-{op}"))


def test_a_bug_rolls_back_and_says_bug(theatre):
    stage = theatre()
    stage.box.fail["restore"] = [ZeroDivisionError("x")]
    report = stage.run()
    assert (report.outcome, report.exit_code, report.error["code"]) == ("rolled-back", 20, "plugin")
    assert "ZeroDivisionError" in report.error["message"]
    assert stage.source.running


@pytest.mark.parametrize("side", [0, 1])
def test_busy_touches_nothing(theatre, side):
    stage = theatre()
    stage.shells[side].broken["open"] = [HelperError("node a: 20260101-x", kind="busy")]
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("refused", 11)
    assert "20260101-x" in report.error["message"] + report.error["hint"]
    assert stage.box.calls == (["rollback"] if side else [])
    assert stage.source.running and stage.source.ended == ("rolled-back" if side else "")


def test_a_node_out_of_reach_before_anything(theatre):
    stage = theatre()
    stage.target.reachable = False
    report = stage.run()
    assert report.exit_code == 20 and report.error["code"] == "connection-lost"
    assert stage.source.running and stage.source.ended == "rolled-back"


def test_a_workload_that_ended_by_itself(theatre):
    stage = theatre()

    def end() -> None:
        stage.source.tasks = False
        stage.source.note("freezing")
        raise HelperError("process 7 has ended", kind="ended")

    stage.box.fail["checkpoint"] = [end]
    report = stage.engine.run()
    assert (report.outcome, report.owner, report.exit_code) == ("ended", "nobody", 21)
    assert stage.source.ended == "ended"


def test_time_runs_out(theatre):
    stage = theatre(timeout_s=0.05)
    stage.box.fail["checkpoint"] = [lambda: time.sleep(0.1)]
    report = stage.run()
    assert (report.outcome, report.exit_code, report.error["code"]) == ("rolled-back", 124, "timeout")
    assert stage.source.running


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("where", ["prepare", "sync", "checkpoint", "restore"])
def test_an_interrupt_rolls_back(theatre, where):
    before = signal.getsignal(signal.SIGINT)  # ignored in a pytest that a shell runs in the background
    stage = theatre()
    stage.box.fail[where] = [interrupt]
    report = stage.run()
    assert (report.outcome, report.exit_code, report.error["code"]) == ("rolled-back", 20, "interrupted")
    assert signal.getsignal(signal.SIGINT) is before


def test_one_interrupt_while_it_is_settled_changes_nothing(theatre):
    stage = theatre()
    stage.shells[1].broken["decide"] = [interrupt]
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("moved", 0)
    assert ("warning", "the run is being settled; once more leaves it to the nodes") in stage.told


@pytest.mark.parametrize("step", ["vote", "decide", "release", "finish"])
def test_a_second_one_leaves_it_to_the_nodes(theatre, step):
    stage = theatre()
    side = int(step in ("decide", "finish"))
    stage.shells[side].broken[step] = [lambda: (interrupt(), interrupt())]
    report = stage.engine.run()
    assert (report.outcome, report.owner, report.exit_code) == ("detached", "nobody", 42)
    assert stage.events()[-1] == "end"
    assert (stage.source.ended, stage.target.ended) == ("", "")


def test_signals_after_the_end_do_not_lose_it(theatre):
    stage = theatre()
    stage.shells[0].broken["end"] = [lambda: setattr(stage.engine.interrupts, "heard", 5)]
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("moved", 0)


# The end of a run, when a connection or an end fails


def test_the_answer_to_permit_is_lost_but_the_copy_landed(theatre):
    stage = theatre()
    stage.shells[1].broken["decide"] = [("after", ConnectionLostError("cut"))]
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("moved", 0)
    assert stage.target.copy == "running" and not stage.source.tasks


@pytest.mark.parametrize("effects", range(1, 7))
@pytest.mark.parametrize("on_failure", ["hold", "rollback"])
def test_the_connection_is_lost_in_the_middle_of_the_landing(theatre, effects, on_failure):
    """The helper goes on while the controller looks again: nobody may let the source run beside it."""
    stage = theatre(on_failure=on_failure)
    stage.shells[1].broken["decide"] = [("some", effects)]
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("moved", 0)
    assert stage.target.copy == "running" and not stage.source.tasks


def test_permit_without_an_answer_and_no_way_back_is_held(theatre):
    stage = theatre()

    def cut() -> None:
        stage.target.reachable = False
        raise ConnectionLostError("cut")

    stage.shells[1].broken["decide"] = [cut]
    report = stage.run()
    assert (report.outcome, report.owner, report.exit_code) == ("held", "nobody", 40)
    assert stage.source.frozen and stage.source.tasks and stage.source.ended == ""
    assert report.error["code"] == "connection-lost"


def test_ready_without_an_answer_aborts(theatre):
    stage = theatre()
    stage.shells[0].broken["vote"] = [("after", ConnectionLostError("cut"))]
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("rolled-back", 20)
    assert stage.source.vote == "READY" and stage.target.verdict == "ABORT"


def test_the_source_is_away_after_ready(theatre):
    stage = theatre()

    def cut() -> None:
        stage.source.reachable = False
        raise ConnectionLostError("cut")

    stage.shells[0].broken["release"] = [cut]
    report = stage.run()
    assert (report.outcome, report.owner, report.exit_code) == ("moved", "target", 41)
    assert stage.target.copy == "running" and stage.target.ended == ""


def test_a_commit_that_does_not_succeed_is_pending(theatre):
    stage = theatre()
    stage.shells[0].broken["release"] = [HelperError("tasks survived", kind="leftover")] * 9
    report = stage.run()
    assert (report.outcome, report.owner, report.exit_code) == ("moved", "target", 41)
    assert stage.events().count("step-failed") == 3
    assert (stage.source.ended, stage.target.ended) == ("", "")


def test_a_backend_that_cannot_clean_up_is_pending_and_asked_again(theatre):
    stage = theatre()
    stage.box.fail["commit"] = [ReberthError("runc delete failed")]
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("moved", 41)
    assert report.error["message"] == "runc delete failed"
    again = Engine(stage.stage, stage.session, Report.of_plan(stage.plan))
    stage.session.ends = [stage.reconnect("a"), stage.reconnect("b")]
    stage.session.forget()
    report = again.resume(Want.BACK)
    assert (report.outcome, report.exit_code) == ("moved", 0)
    assert stage.box.calls.count("commit") == 2
    assert (stage.source.ended, stage.target.ended) == ("moved", "moved")


def test_a_landing_that_fails_is_held_or_rolled_back_as_was_asked(theatre, make_plugin):
    for on_failure, outcome, code in (("hold", "held", 40), ("rollback", "rolled-back", 20)):
        stage = Theatre(make_plugin, on_failure=on_failure)
        stage.shells[1].broken["decide"] = [
            lambda stage=stage: (setattr(stage.target, "verdict", "PERMIT"), stage.target.die())
        ]
        report = stage.run()
        assert (report.outcome, report.exit_code) == (outcome, code)
        assert stage.source.running is (outcome == "rolled-back")
        stage.journal.dir.rename(stage.journal.dir.with_name(f"old-{on_failure}"))


def test_what_is_left_behind_is_told_and_recover_tries_again(theatre):
    stage = theatre()
    stage.target.left = ["rmtree /dev/shm/x: busy"]
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("moved", 41)
    assert "left on node b: rmtree /dev/shm/x: busy" in report.warnings
    stage.target.left = []
    stage.session.ends = [stage.reconnect("a"), stage.reconnect("b")]
    stage.session.forget()
    again = Engine(stage.stage, stage.session, Report.of_plan(stage.plan)).resume(Want.BACK)
    assert (again.outcome, again.exit_code) == ("moved", 0)


def test_what_is_left_behind_by_a_way_back_is_a_warning(theatre):
    stage = theatre()
    stage.target.left = ["rmdir /srv: not empty"]
    stage.box.fail["restore"] = [ReberthError("no")]
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("rolled-back", 20)
    assert "left on node b: rmdir /srv: not empty" in report.warnings


def test_an_end_that_answers_nonsense_is_an_end_out_of_reach(theatre):
    stage = theatre()
    stage.shells[1].broken["facts"] = [HelperError("a bug there", kind="bug")] * 9
    report = stage.run()
    assert report.exit_code in (0, 20)
    assert stage.events()[-1] == "end"


def test_an_end_whose_helper_died_is_told_the_end_through_a_new_one(theatre):
    stage = theatre()
    stage.shells[1].broken["finish"] = [lambda: setattr(stage.source, "helper", False)]
    report = stage.run()
    assert (report.outcome, report.exit_code, report.warnings) == ("moved", 0, [])
    assert stage.source.ended == "moved"


def test_an_end_that_cannot_be_told_the_end_is_pending(theatre):
    stage = theatre()
    stage.shells[1].broken["finish"] = [lambda: setattr(stage.source, "reachable", False)]
    report = stage.run()
    assert (report.outcome, report.exit_code) == ("moved", 41)
    assert "node a could not be told that the run has ended" in report.warnings[0]
    stage.source.reachable = True
    stage.session.ends = [stage.reconnect("a"), stage.reconnect("b")]
    stage.session.forget()
    again = Engine(stage.stage, stage.session, Report.of_plan(stage.plan)).resume(Want.BACK)
    assert (again.outcome, again.exit_code) == ("moved", 0)


def test_a_bandwidth_holds_before_anything_is_sent(theatre):
    stage, told = theatre(bandwidth_bytes_s=1000), []
    stage.shells[0].begin = lambda op, **args: told.append((op, args, list(stage.box.calls)))
    assert stage.run().exit_code == 0
    assert told == [("limit", {"bytes_s": 1000}, [])]  # before the first phase


def test_an_end_that_cannot_be_told_keeps_the_downtime(theatre):
    stage = theatre()
    stage.shells[1].broken["finish"] = [lambda: setattr(stage.source, "reachable", False)]
    report = stage.run()
    assert report.downtime_s is not None
    assert f"reberth recover {stage.plan.id}" in report.warnings[0]
