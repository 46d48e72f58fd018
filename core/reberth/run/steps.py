"""What each step of the protocol does: an operation of one end, whose answer is the new state of that end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from reberth.plugin.stage import Stage
from reberth.run import opened
from reberth.run.decide import Step
from reberth.run.session import Session
from reberth.run.verify import verify, vote_ready

Phase = Callable[[str], AbstractContextManager[None]]
# What is done about the tasks of an end whose journal is lost: which end, and how.
LOST = {
    Step.END_LOST_SOURCE: (0, "kill"),
    Step.THAW_LOST_SOURCE: (0, "thaw"),
    Step.END_LOST_TARGET: (1, "kill"),
}
DECIDES = {Step.PERMIT: "PERMIT", Step.PERMIT_ON_WORD: "PERMIT", Step.ABORT: "ABORT"}


def perform(step: Step, session: Session, stage: Stage, phase: Phase) -> dict[str, Any]:
    """Do one step; answers CRIU's counters where the source was given up, else nothing."""
    if step is Step.ASK_READY:
        session.learn(0, vote_ready(session))
    elif step in DECIDES:
        if step is Step.PERMIT_ON_WORD:
            session.target.call("note", event="source-is-dead")
        session.learn(1, session.target.call("decide", value=DECIDES[step], timeout_s=120.0))
    elif step in LOST:
        side, how = LOST[step]
        opened.settle_lost(session.journal, side, session.end(side), how)
        session.learn(side, None)
    elif step is Step.COMMIT:
        return _commit(session)
    elif step in (Step.FILL, Step.DISCARD):
        _fill_or_discard(step, session, phase)
    elif step in (Step.LOOK, Step.FINISH):
        session.learn(1, session.target.call(step.value, timeout_s=60.0))
    else:
        _resume(step, session, stage)
    return {}


def _commit(session: Session) -> dict[str, Any]:
    if session.forward:
        session.source.call("note", event="given-up")
    verify(session)
    facts = session.source.call("release", how="kill", timeout_s=120.0)
    session.learn(0, facts)
    return dict(facts.get("stats") or {})


def _fill_or_discard(step: Step, session: Session, phase: Phase) -> None:
    woken = (session.known(0) or {}).get("resumed")
    dead = session.on_word or session.target_is_gone or session.source_is_dead
    if step is Step.DISCARD and (dead or woken):
        session.target.call("note", event="given-up")
    with phase(step.value):
        session.learn(1, session.target.call(step.value, timeout_s=None))


def _resume(step: Step, session: Session, stage: Stage) -> None:
    if step is Step.RESUME_ON_WORD:
        session.source.call("note", event="target-is-gone")
    facts = session.source.call("release", how="resume", aborted=step is not Step.RESUME, timeout_s=60.0)
    stage.rollback(session)
    session.learn(0, facts)
