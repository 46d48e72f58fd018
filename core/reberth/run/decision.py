"""What `decide` answers: the next step or the end of a run; and the words of the operator that it may act on.

The commands that a reason names say ID: who prints them puts the run's id there (`named`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    PERMIT_ON_WORD = "permit-on-word"
    ABORT = "abort"
    LOOK = "look"
    FILL = "fill"
    DISCARD = "discard"
    COMMIT = "commit"
    RESUME = "resume"
    RESUME_ABORTED = "resume-aborted"
    RESUME_ON_WORD = "resume-on-word"
    END_LOST_SOURCE = "end-lost-source"
    THAW_LOST_SOURCE = "thaw-lost-source"
    END_LOST_TARGET = "end-lost-target"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step, or (step None) the end: outcome, owner and exit code, and why."""

    step: Step | None
    why: str
    outcome: str = ""
    owner: Owner = Owner.NOBODY
    exit_code: Exit = Exit.DONE


@dataclass(frozen=True, slots=True)
class Words:
    """What is allowed beyond the default, by the operator's typed word; `ready` is knowledge, no word.

    `rollback_unlanded` (`--on-failure rollback`): with PERMIT written and a copy that the journal proves never ran, the
    source may run again. `on_word` (`recover --rollback`) allows it also beside a copy that may have run. `forward`
    (`recover --forward`): what a lost journal would have proven is taken for true, and the source is given up although
    the copy was not well when it was looked at. `source_is_dead`, `target_is_gone`:
    the node that cannot be asked never comes back, or not with its tasks. `ready`: this controller has read the
    source's vote READY, which stands for ever.
    """

    rollback_unlanded: bool = False
    on_word: bool = False
    forward: bool = False
    source_is_dead: bool = False
    target_is_gone: bool = False
    ready: bool = False

    @property
    def prefers_source(self) -> bool:
        """Tell whether the operator wants the source even beside a copy that may have run."""
        return self.on_word or self.target_is_gone


MOVED = Decision(None, "the copy runs on the target", "moved", Owner.TARGET, Exit.DONE)
BACK = Decision(None, "the source runs", "rolled-back", Owner.SOURCE, Exit.ROLLED_BACK)
GONE = Decision(None, "the source's tasks are gone and no copy runs", "ended", Owner.NOBODY, Exit.ENDED)
ENDED = replace(GONE, why="the copy ran and ended, and its end was accepted")
POWER_LOST = replace(
    GONE, why="the source's node lost its power (or restarted) and its tasks with it, and no whole copy is held"
)
DEAD = replace(GONE, why="the source is dead, as the operator says, and no copy is held on the target")
BOTH_GONE = replace(GONE, why="both nodes are gone, as the operator says")

ON_WORD = "to prefer the source as it was at the freeze: reberth recover ID --rollback"
IF_DEAD = (
    "when the source answers again: reberth recover ID; if it is dead for good: reberth recover ID --forward "
    "--source-is-dead"
)
IF_GONE = (
    "when the target answers again: reberth recover ID; if it is gone for good: reberth recover ID --rollback "
    "--target-is-gone"
)
KEPT = (
    "the source cannot be reached; the copy is complete and held frozen on the target, and a source that is alive but "
    "cut off runs again by itself within 15 s unless it had voted READY; "
)


def held(why: str, exit_code: Exit = Exit.HELD) -> Decision:
    """The end that waits for `recover`."""
    return Decision(None, why, "held", Owner.NOBODY, exit_code)


def left_over(why: str) -> Decision:
    """The copy runs, and something on the source is left to do."""
    return Decision(None, why, "moved", Owner.TARGET, Exit.CLEANUP_PENDING)


def named(decision: Decision, run_id: str) -> Decision:
    """The same with the run's id in the commands that its reason names."""
    return replace(decision, why=decision.why.replace("recover ID", f"recover {run_id}"))


def rests(source: Mapping[str, Any]) -> bool:
    """Tell whether nothing is left to do at the source: it does not know the run, or it runs again."""
    return not source or bool(source.get("resumed")) or bool(source.get("ended"))


def back(source: Mapping[str, Any]) -> Decision:
    """The end of a run that went back: the source runs, or its tasks are gone."""
    if not source.get("gone"):
        return BACK
    return POWER_LOST if source.get("rebooted") else GONE
