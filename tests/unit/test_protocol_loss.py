"""Nodes that lose their power, their journal, or never come back: no copy is lost that can be kept, and a word ends it.

The model and its rules are those of tests/unit/test_protocol.py.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_protocol import CLOSED, FAULTS, LOSSES, World, tells_the_truth, troubles

from reberth.run.decide import Decision, Step, Want, decide
from reberth_hooks import Exit, Owner

HELD = {"role": "source", "vote": None, "holding": True, "held": True, "froze": True, "tasks": 1}
READY = {**HELD, "vote": "READY"}
DEAD = {**HELD, "holding": False, "gone": True, "rebooted": True, "tasks": 0}
COPY = {"role": "target", "verdict": None, "holding": True, "keeps": True}
TAKEN_BACK = {"role": "target", "verdict": "ABORT", "taken_back": True}
LANDED = {"role": "target", "verdict": "PERMIT", "landed": True, "running_ns": 5, "tasks": 1}
UNSEEN, ILL = {**LANDED, "unseen": True}, {**LANDED, "ill": True}
RESUMED = {**HELD, "holding": False, "vote": "RESUME", "resumed": True}


def lost(role, remains):
    return {"role": role, "lost": True, "remains": remains, "there": f"{role}1 knows nothing: {remains} in reberth-ID"}


ROLLBACK, FORWARD = {"on_word": True}, {"forward": True}
SOURCE_DEAD = {"forward": True, "source_is_dead": True}
TARGET_GONE = {"on_word": True, "target_is_gone": True}
BACK, ON = Want.BACK, Want.FORWARD
ROWS = [
    # The source cannot be reached, and a whole copy is held.
    (None, COPY, BACK, {}, "held"),
    (None, COPY, ON, {}, "held"),
    (None, COPY, BACK, {"rollback_unlanded": True}, "held"),
    (None, COPY, BACK, ROLLBACK, "held"),
    (None, COPY, BACK, {"ready": True}, Step.PERMIT),
    (None, COPY, ON, SOURCE_DEAD, Step.PERMIT_ON_WORD),
    (None, {**COPY, "keeps": False}, BACK, {}, Step.ABORT),  # a daemon's, or its pages are on the source
    (DEAD, COPY, BACK, {}, Step.ASK_READY),
    (DEAD, {**COPY, "needs_source": True}, BACK, {}, Step.ABORT),
    ({**DEAD, "vote": "READY"}, COPY, BACK, {}, Step.PERMIT),
    (RESUMED, COPY, BACK, {}, Step.ABORT),
    (DEAD, None, BACK, {}, "held"),  # the target may hold the only copy
    (DEAD, None, BACK, TARGET_GONE, Step.RESUME_ON_WORD),
    ({**DEAD, "held": False}, None, BACK, {}, Step.RESUME),
    (None, TAKEN_BACK, BACK, {}, "held"),
    (None, TAKEN_BACK, ON, SOURCE_DEAD, "ended"),
    (None, {}, ON, SOURCE_DEAD, "ended"),
    (None, LANDED, BACK, {}, "moved"),
    (None, LANDED, ON, SOURCE_DEAD, Step.FINISH),
    (DEAD, LANDED, BACK, {}, Step.RESUME),  # it was let go on the word: the source is told that its run is over
    ({**DEAD, "vote": "RESUME", "resumed": True}, LANDED, BACK, {}, Step.FINISH),
    # The copy is seen to live, or not, though the source cannot be reached.
    (None, UNSEEN, BACK, {}, Step.LOOK),
    (None, UNSEEN, ON, SOURCE_DEAD, Step.LOOK),
    (DEAD, UNSEEN, BACK, {}, Step.LOOK),
    (lost("source", "frozen"), UNSEEN, ON, FORWARD, Step.LOOK),
    (None, ILL, BACK, {}, "held"),
    (None, ILL, ON, FORWARD, "held"),
    (None, ILL, ON, SOURCE_DEAD, Step.FINISH),
    (None, {**ILL, "cleaned": True}, ON, SOURCE_DEAD, "ended"),
    (DEAD, ILL, BACK, {}, "held"),
    (lost("source", "frozen"), ILL, BACK, {}, "held"),
    (lost("source", "frozen"), ILL, ON, FORWARD, Step.END_LOST_SOURCE),
    (RESUMED, ILL, BACK, {}, Step.DISCARD),
    # The target never comes back.
    (READY, None, BACK, {}, "held"),
    (READY, None, BACK, ROLLBACK, "held"),  # not typed in full
    (READY, None, BACK, TARGET_GONE, Step.RESUME_ON_WORD),
    ({**READY, "vote": "UNREADABLE"}, None, BACK, TARGET_GONE, Step.RESUME_ON_WORD),
    (READY, {}, BACK, ROLLBACK, Step.RESUME_ON_WORD),
    ({**READY, "released": True}, None, BACK, {}, "moved"),
    ({**READY, "released": True}, None, BACK, TARGET_GONE, "ended"),
    (None, None, BACK, TARGET_GONE, "held"),
    (None, None, BACK, {"source_is_dead": True, "target_is_gone": True}, "ended"),
    # It comes back after all.
    (RESUMED, {**COPY, "holding": False, "keeps": False}, BACK, {}, Step.ABORT),
    (RESUMED, {"verdict": "PERMIT", "holding": True}, BACK, {}, Step.DISCARD),
    (RESUMED, LANDED, BACK, {}, "held"),
    (RESUMED, LANDED, BACK, ROLLBACK, Step.DISCARD),
    (RESUMED, LANDED, ON, FORWARD, Step.FINISH),
    (RESUMED, {**LANDED, "rebooted": True}, BACK, {}, Step.DISCARD),
    (RESUMED, {**LANDED, "taken_back": True}, BACK, {}, "rolled-back"),
    # A verdict that cannot be read.
    (READY, {"verdict": "UNREADABLE"}, BACK, {}, "held"),
    (READY, {"verdict": "UNREADABLE"}, BACK, ROLLBACK, Step.DISCARD),
    (READY, {"verdict": "UNREADABLE", "taken_back": True}, BACK, ROLLBACK, Step.RESUME_ABORTED),
    ({**READY, "vote": "UNREADABLE"}, LANDED, ON, FORWARD, Step.COMMIT),
    ({**READY, "vote": "UNREADABLE"}, LANDED, BACK, {}, "moved"),
    # The source's journal is lost.
    (lost("source", "frozen"), TAKEN_BACK, BACK, {}, "held"),
    (lost("source", "frozen"), None, BACK, {}, "held"),
    (lost("source", "frozen"), {}, BACK, {}, "held"),
    (lost("source", "frozen"), COPY, BACK, {}, "held"),
    (lost("source", "frozen"), COPY, ON, FORWARD, Step.PERMIT_ON_WORD),
    (lost("source", "frozen"), COPY, BACK, ROLLBACK, Step.ABORT),
    (lost("source", ""), COPY, ON, FORWARD, Step.PERMIT_ON_WORD),
    (lost("source", ""), COPY, BACK, ROLLBACK, "held"),  # nothing of the source is there: the copy may be all there is
    (lost("source", "running"), COPY, ON, FORWARD, Step.ABORT),
    (lost("source", "running"), TAKEN_BACK, BACK, {}, "rolled-back"),
    (lost("source", "frozen"), TAKEN_BACK, BACK, ROLLBACK, Step.THAW_LOST_SOURCE),
    (lost("source", "held"), TAKEN_BACK, BACK, ROLLBACK, Step.THAW_LOST_SOURCE),
    (lost("source", "frozen"), None, BACK, ROLLBACK, "held"),
    (lost("source", "frozen"), None, BACK, TARGET_GONE, Step.THAW_LOST_SOURCE),
    (lost("source", ""), TAKEN_BACK, BACK, ROLLBACK, "ended"),
    (lost("source", "frozen"), LANDED, BACK, {}, "moved"),
    (lost("source", "frozen"), LANDED, ON, FORWARD, Step.END_LOST_SOURCE),
    (lost("source", ""), LANDED, ON, FORWARD, Step.FINISH),
    (lost("source", "running"), LANDED, BACK, {}, "held"),
    (lost("source", "frozen"), lost("target", ""), BACK, {}, "held"),
    (lost("source", "frozen"), lost("target", ""), BACK, ROLLBACK, Step.THAW_LOST_SOURCE),
    (lost("source", "frozen"), lost("target", "running"), ON, FORWARD, Step.END_LOST_SOURCE),
    # The target's journal is lost.
    (READY, lost("target", "running"), BACK, {}, "held"),
    (READY, lost("target", "running"), ON, FORWARD, Step.COMMIT),
    (READY, {**lost("target", "running"), "lazy": True}, ON, FORWARD, "held"),
    (READY, lost("target", "running"), BACK, ROLLBACK, Step.END_LOST_TARGET),
    (READY, lost("target", ""), BACK, {}, "held"),
    (READY, lost("target", ""), BACK, ROLLBACK, Step.RESUME_ON_WORD),
    (HELD, lost("target", "held"), BACK, {}, Step.RESUME),
    (RESUMED, lost("target", "held"), BACK, {}, Step.END_LOST_TARGET),
    (RESUMED, lost("target", ""), BACK, {}, "rolled-back"),
    (RESUMED, lost("target", "running"), BACK, {}, "held"),
    (RESUMED, lost("target", "running"), BACK, ROLLBACK, Step.END_LOST_TARGET),
    ({**READY, "released": True}, lost("target", "running"), BACK, {}, "moved"),
    (None, lost("target", "running"), BACK, {}, "held"),
    (None, lost("target", "running"), ON, SOURCE_DEAD, "moved"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target", "want", "words", "expected"), ROWS)
def test_rows_by_name(source, target, want, words, expected):
    got = decide(source, target, want, **words)
    assert (got.step or got.outcome) == expected, got


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (None, COPY, "recover ID --forward --source-is-dead"),
        (READY, None, "recover ID --rollback --target-is-gone"),
        (READY, lost("target", "running"), "running in reberth-ID"),
        (lost("source", "frozen"), TAKEN_BACK, "frozen in reberth-ID"),
        (None, {**TAKEN_BACK, "given_up": "only 3 MiB of memory are left"}, "only 3 MiB"),
        (RESUMED, LANDED, "a copy runs on the target as well"),
    ],
)
def test_what_is_held_says_where_it_is_and_what_ends_it(source, target, said):
    got = decide(source, target, Want.BACK)
    assert (got.outcome, got.exit_code) == ("held", Exit.HELD)
    assert said in got.why and "reberth recover ID" in got.why


def test_a_workload_that_ended_with_its_node_is_said_to():
    got = decide({**DEAD, "held": False, "resumed": True}, TAKEN_BACK, Want.BACK)
    assert (got.outcome, got.exit_code) == ("ended", Exit.ENDED)
    assert "lost its power" in got.why


# Both ends in memory


def mended(world: World) -> None:
    """All can be reached again, and what was half done is through."""
    world.faults = []
    world.source.reachable = world.target.reachable = True
    world.source.finish_half_done()
    world.target.finish_half_done()


def ends_by_a_word(world: World) -> Decision:
    """The first end that one of the words brings: there must be one, and it must be true."""
    for want, words in ((Want.BACK, ROLLBACK), (Want.FORWARD, FORWARD), (Want.BACK, {})):
        world.said = words
        got = world.settle(want)
        tells_the_truth(world, got)
        if got.outcome in CLOSED and got.exit_code is not Exit.CLEANUP_PENDING:
            return got
    raise AssertionError(f"no word ends it: {got} {world.source.__dict__} {world.target.__dict__}")


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(troubles(FAULTS + LOSSES * 2), st.booleans(), st.booleans(), st.sampled_from(Want))
def test_lost_power_journals_and_memory(faults, lazy, line, how):
    """Never two, never none that could be kept (`World.check`), and a way out of every end that is held."""
    world = World(faults, rollback=False, lazy=lazy, line=line)
    tells_the_truth(world, world.migrate())
    mended(world)
    got = world.settle(how)
    tells_the_truth(world, got)
    frozen = (world.source.wiped and world.source.remains() == "frozen") or (
        world.target.wiped and world.target.remains() in ("frozen", "held")
    )
    assert not (frozen and got.exit_code in (Exit.DONE, Exit.ROLLED_BACK, Exit.ENDED)) or how is Want.FORWARD
    if got.outcome not in CLOSED or got.exit_code is Exit.CLEANUP_PENDING:
        ends_by_a_word(world)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.booleans(), st.booleans(), st.integers(0, 7), st.booleans())
def test_the_source_loses_its_power_for_good(lazy, line, when, seen):
    """A copy that was held when the power went runs in the end, by `recover` after the restart or by the typed word."""
    world = World([("nothing", 0)] * when + [("restart source", 0), ("cut source", 0)], False, lazy, line)
    tells_the_truth(world, world.migrate())
    strict, whole = world.strict, world.target.copy
    mended(world)
    world.source.reachable = seen  # it comes back without its tasks, or never
    world.said = {} if seen else SOURCE_DEAD
    got = world.settle(Want.BACK if seen else Want.FORWARD)
    tells_the_truth(world, got)
    if strict and not world.source.tasks:
        assert world.copy_runs(), (whole, got)
        assert got.outcome == "moved"
    assert got.outcome in CLOSED
    world.source.reachable = True  # and if it comes back even later, it is told
    world.said = {}
    assert world.settle(Want.BACK).outcome == got.outcome
    assert world.source.ended


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 8), st.booleans(), st.booleans(), st.sampled_from(["restart target", "wipe target"]))
def test_the_target_is_gone_for_good_and_comes_back_later(when, lazy, line, how):
    """Dead after any step: the typed word frees the source; the same target later has nothing, and is told."""
    world = World([("nothing", 0)] * when + [("restart target", 0), ("cut target", 0)], False, lazy, line)
    got = world.migrate()
    tells_the_truth(world, got)
    if got.outcome in CLOSED and got.exit_code is not Exit.CLEANUP_PENDING:
        return
    world.faults = []
    world.said = TARGET_GONE
    got = world.settle(Want.BACK)
    tells_the_truth(world, got)
    assert got.outcome == ("ended" if world.source.has("released") else "rolled-back")
    assert world.source.running or world.source.has("released")
    if how == "wipe target":
        world.target.wipe()
    mended(world)
    world.said = {}
    later = world.settle(Want.BACK)
    tells_the_truth(world, later)
    assert later.outcome in (got.outcome, "moved" if world.source.has("released") else "")
    assert world.target.wiped or world.target.ended


@pytest.mark.parametrize(("when", "lazy"), [*itertools.product(range(2, 8), (False, True))])
def test_a_target_that_was_not_gone_is_reported_loudly(when, lazy):
    """The word was wrong: the target had landed. When it is met again both are named, and a word ends the copy."""
    world = World([("nothing", 0)] * when + [("silence target", 0)], False, lazy)
    world.migrate()
    world.alone(world.target)
    if world.source.has("released") or world.source.running:
        return
    world.faults, world.deceived = [], True
    world.said = TARGET_GONE
    assert world.settle(Want.BACK).owner is Owner.SOURCE
    mended(world)
    world.said = {}
    got = world.settle(Want.BACK)
    if world.target.has("landed"):
        assert (got.outcome, got.exit_code) == ("held", Exit.HELD)
        assert "a copy runs on the target as well" in got.why
        world.said = ROLLBACK
        got = world.settle(Want.BACK)
    assert got.owner is Owner.SOURCE and world.source.running and world.target.copy == "none"
