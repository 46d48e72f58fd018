"""Who may run the workload: a pure function of what both ends say, the same for the engine and for `recover`.

Facts of an end are what its helper answers (`facts`): None when the end cannot be reached, an empty mapping when it
does not know the run. `decide` gives the next step or the end of the run; whoever performs the step looks again. The
rules behind each row are in docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reberth_hooks import Exit, Owner

Facts = Mapping[str, Any] | None


class Want(StrEnum):
    """Where the run should go, as far as the facts allow: on, back, or nowhere of its own (`recover`)."""

    FORWARD = "forward"
    BACK = "back"


class Step(StrEnum):
    """What can be done next."""

    ASK_READY = "ask-ready"
    PERMIT = "permit"
    ABORT = "abort"
    LOOK = "look"
    FILL = "fill"
    DISCARD = "discard"
    COMMIT = "commit"
    RESUME = "resume"
    RESUME_ABORTED = "resume-aborted"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step, or (step None) the end: outcome, owner and exit code, and why."""

    step: Step | None
    why: str
    outcome: str = ""
    owner: Owner = Owner.NOBODY
    exit_code: Exit = Exit.DONE


MOVED = Decision(None, "the copy runs on the target", "moved", Owner.TARGET, Exit.DONE)
BACK = Decision(None, "the source runs", "rolled-back", Owner.SOURCE, Exit.ROLLED_BACK)
GONE = Decision(None, "the source's tasks are gone and no copy runs", "ended", Owner.NOBODY, Exit.ENDED)
ENDED = Decision(None, "the copy ran and ended, and its end was accepted", "ended", Owner.NOBODY, Exit.ENDED)


ON_WORD = "to prefer the source as it was at the freeze: reberth recover ID --rollback"


def _held(why: str, exit_code: Exit = Exit.HELD) -> Decision:
    return Decision(None, why, "held", Owner.NOBODY, exit_code)


def decide(
    source: Facts,
    target: Facts,
    want: Want,
    *,
    rollback_unlanded: bool = False,
    on_word: bool = False,
    accepted: bool = False,
) -> Decision:
    """The next step of a run.

    `rollback_unlanded` allows what the default does not: with PERMIT written and a copy that the journal proves never
    ran, the source may run again. `on_word` (`recover --rollback`) allows it also beside a copy that may have run.
    `accepted` (`recover --forward`) gives the source up although the copy was not well when it was looked at.
    """
    if target is None:
        return _target_unreachable(source)
    verdict = target.get("verdict")
    if verdict == "PERMIT":
        if found := _lives(source or {}, target, want, rollback_unlanded or on_word, accepted):
            return found
        return _permitted(source, target, want, rollback_unlanded or on_word, on_word)
    if verdict == "UNREADABLE":
        return _held("the target's verdict cannot be read")
    if verdict == "ABORT":
        return _aborted(source, target)
    return _undecided(source, target, want)


def _target_unreachable(source: Facts) -> Decision:
    if source is None:
        return _held("neither node can be reached")
    vote = source.get("vote")
    if source.get("released"):
        return Decision(
            None, "the source was given up, the target cannot be asked", "moved", Owner.TARGET, Exit.CLEANUP_PENDING
        )
    if vote in ("READY", "UNREADABLE"):
        return _held("the source has voted READY and the target cannot be asked for its verdict")
    if _rests(source):
        return _back(source)
    # Without READY nobody can have permitted, and from RESUME on nobody can: the target aborts by itself.
    return Decision(Step.RESUME, "the target cannot be reached and nothing was permitted")


def _permitted(
    source: Facts, target: Mapping[str, Any], want: Want, rollback_unlanded: bool, on_word: bool
) -> Decision:
    if target.get("taken_back"):  # it could not go on, and was discarded on the operator's word
        if source is None:
            return _held("the copy was discarded; the source cannot be reached")
        return _back(source) if _rests(source) else Decision(Step.RESUME_ABORTED, "the copy was discarded")
    if target.get("landed"):
        return _landed(source, target, want, rollback_unlanded, on_word)
    if source is not None and source.get("resumed"):
        return _back(source)
    if not target.get("landing_failed") and not target.get("ended"):
        # Held, or landing this very moment, or cut off in it: only the target's lock tells, and ends it either way.
        return Decision(Step.PERMIT, "PERMIT stands: the copy lands, or the target proves that it never will")
    if target.get("may_have_run"):
        if source and want is Want.BACK and on_word:
            return Decision(Step.RESUME_ABORTED, "the source as it was at the freeze is preferred")
        return _held(f"PERMIT stands, and the copy ended when it may have run for a moment; {ON_WORD}")
    if source and want is Want.BACK and rollback_unlanded:
        return Decision(Step.RESUME_ABORTED, "the copy never ran, as the target's journal proves")
    return _held(f"PERMIT stands but the copy ended before it ran; the source is frozen and complete; {ON_WORD}")


def _landed(source: Facts, target: Mapping[str, Any], want: Want, rollback: bool, on_word: bool) -> Decision:
    given_up = not source or source.get("released")
    if not target.get("running_ns") and not target.get("ended"):
        return Decision(Step.PERMIT, "the copy has landed and is still frozen")
    filling = target.get("lazy") and not target.get("filled")
    if source is None and filling and not target.get("ended"):
        return _filling(source, target, want, rollback)
    if source is None:
        return Decision(
            None, "the copy runs; the source cannot be reached", "moved", Owner.TARGET, Exit.CLEANUP_PENDING
        )
    if source.get("resumed"):
        return _held("both ends say that they run")
    if not given_up and target.get("rebooted"):
        if want is Want.BACK and on_word:
            return Decision(
                Step.DISCARD, "the copy ended with its node; the source as it was at the freeze is preferred"
            )
        return _held(f"the target restarted after the copy had run; {ON_WORD}")
    if not given_up and filling:
        return _filling(source, target, want, rollback)
    if not given_up:
        return Decision(Step.COMMIT, "the copy runs on the target")
    if not target.get("ended") and not target.get("cleaned"):
        return Decision(Step.FINISH, "the source was given up")
    return ENDED if target.get("ill") else MOVED


def _lives(
    source: Mapping[str, Any], target: Mapping[str, Any], want: Want, rollback: bool, accepted: bool
) -> Decision | None:
    """What comes before everything else while nobody has seen the copy live, or once it did not; None: it lives.

    What a copy that did not live has done meanwhile is not known: only a word makes the source run again.
    """
    if target.get("taken_back") or source.get("resumed") or source.get("released"):
        return None
    if target.get("unseen") and not target.get("rebooted"):
        return Decision(Step.LOOK, "the copy runs: it is seen to live before the source goes")
    if not target.get("ill") or accepted:
        return None
    if source and want is Want.BACK and rollback:
        return Decision(Step.DISCARD, "the copy did not live, and the source as it was at the freeze is preferred")
    return _held(f"the copy ran and did not live; {ON_WORD}; to accept its end: reberth recover ID --forward")


def _filling(source: Facts, target: Mapping[str, Any], want: Want, rollback: bool) -> Decision:
    """The copy runs but not all of its memory is there: the source stays, frozen and complete."""
    if not target.get("fill_failed"):
        return Decision(Step.FILL, "the copy runs, its pages are coming in")
    if want is Want.BACK and rollback and source and source.get("tasks"):
        return Decision(Step.DISCARD, "the fill failed, and the source as it was at the freeze is preferred")
    return _held("the copy ran, but the fill of its memory failed: it blocks", Exit.HELD_POST_COPY)


def _aborted(source: Facts, target: Mapping[str, Any]) -> Decision:
    if not target.get("taken_back") and not target.get("ended"):
        return Decision(Step.ABORT, "ABORT stands and the copy is not yet taken back")
    if source is None:
        return _held("the target aborted; the source cannot be reached: it runs again by itself unless it had voted")
    if _rests(source):
        return _back(source)
    return Decision(Step.RESUME_ABORTED, "the target says ABORT")


def _undecided(source: Facts, target: Mapping[str, Any], want: Want) -> Decision:
    known = bool(target) and not target.get("ended")
    copy_held = known and target.get("holding") and source
    # The source's node restarted, or its frozen tasks were killed: then the held copy is the only one there is.
    alone = copy_held and source and source.get("gone") and source.get("held")
    if copy_held and source and (alone or (want is Want.FORWARD and source.get("holding"))):
        vote = source.get("vote")
        if vote is None:
            return Decision(Step.ASK_READY, "the copy is held and verified")
        if vote == "READY":
            return Decision(Step.PERMIT, "the source has voted READY")
    if known:
        return Decision(Step.ABORT, "the run goes back")
    if source is None:
        return _held("the source cannot be reached, and the target knows nothing of this run")
    if source.get("released"):
        return MOVED
    if _rests(source):
        return _back(source)
    if source.get("vote") in ("READY", "UNREADABLE"):
        return _held("the source has voted READY and the target knows nothing of this run")
    return Decision(Step.RESUME, "the target was never asked to restore")


def _back(source: Mapping[str, Any]) -> Decision:
    return GONE if source.get("gone") else BACK


def _rests(source: Mapping[str, Any]) -> bool:
    """Whether nothing is left to do at the source: it does not know the run, or it runs again."""
    return not source or bool(source.get("resumed")) or bool(source.get("ended"))
