"""Rows for a node whose journal of the run is lost: the run was opened there, and it knows nothing of it.

That is no proof that nothing ever happened. Its helper looks for what is really there: the cgroup of the run, and
whether its tasks run, are frozen, or are held by a criu (`remains`, in words `there`). A lost source never wakes by
itself, as without its ballots no vote can be cast. Only typed words end tasks that no journal accounts for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from reberth.run.decision import (
    GONE,
    IF_DEAD,
    MOVED,
    Decision,
    Facts,
    Step,
    Want,
    Words,
    back,
    held,
    left_over,
    rests,
)

Decide = Callable[[Facts, Facts, Want, Words], Decision]
EITHER = "to let the source run: reberth recover ID --rollback; to let the copy run: reberth recover ID --forward"
THE_SOURCE = "to let the source run: reberth recover ID --rollback"
OPEN_HERE = "the run was opened here, and the node knows nothing of it"


def source(facts: Mapping[str, Any], target: Facts, want: Want, words: Words, decide: Decide) -> Decision:
    """The source's journal is lost: decided as for one that has voted READY, and each step changed for what it has."""
    remains, there = facts.get("remains"), facts.get("there") or OPEN_HERE
    if _waits(target) and remains != "running" and not (words.prefers_source and remains):
        if words.forward:
            return Decision(Step.PERMIT_ON_WORD, "the source's journal is lost; the copy is let go on the word")
        wish = EITHER if remains else "to let the copy run: reberth recover ID --forward"
        return held(f"{there}; the copy is complete and held frozen on the target; {wish}")
    stands_for = {"role": "source", "vote": "READY", "held": True, "froze": True, "resumed": remains == "running"}
    got = decide(stands_for, target, want, words)
    if got.step is Step.COMMIT:
        if not words.forward:
            return left_over(f"the copy runs; {there}; to end what is left of the source: reberth recover ID --forward")
        if remains:
            return Decision(Step.END_LOST_SOURCE, "the copy runs, and the source is given up on the operator's word")
        return decide({**stands_for, "released": True}, target, want, words)
    if got.step in (Step.RESUME, Step.RESUME_ABORTED, Step.RESUME_ON_WORD):
        return _wake(str(remains or ""), str(there), words)
    return replace(got, why=f"{there}; {got.why}") if got.outcome == "held" else got


def _waits(target: Facts) -> bool:
    """Tell whether a whole copy is held on the target, and nothing is decided there yet."""
    if not target or target.get("lost") or target.get("verdict") or target.get("ended"):
        return False
    return bool(target.get("holding") and target.get("keeps"))


def _wake(remains: str, there: str, words: Words) -> Decision:
    if not words.prefers_source:
        return held(f"{there}; {THE_SOURCE}")
    if remains:
        return Decision(Step.THAW_LOST_SOURCE, "no copy runs, and the source is let run on the operator's word")
    return replace(GONE, why=f"{there}; no copy runs")


def target(source: Facts, facts: Mapping[str, Any], want: Want, words: Words) -> Decision:
    """The target's journal is lost: whether the copy was permitted and landed shows only in what is there."""
    remains, there = facts.get("remains"), facts.get("there") or OPEN_HERE
    if source is None:
        if words.source_is_dead and remains == "running":
            return MOVED
        if words.source_is_dead and not remains:
            return replace(GONE, why=f"the source is dead, as the operator says; {there}")
        return held(f"{there}; the source cannot be reached; {IF_DEAD}")
    if source.get("released"):
        return MOVED if remains in ("running", "") or words.forward else left_over(f"the source was given up; {there}")
    if rests(source) or source.get("vote") not in ("READY", "UNREADABLE"):
        return _unpermitted(source, str(remains or ""), str(there), want, words)
    runs_whole = remains == "running" and not facts.get("lazy")
    if runs_whole and words.forward:
        return Decision(Step.COMMIT, "the copy runs, and the source is given up on the operator's word")
    if want is Want.BACK and words.prefers_source:
        if remains:
            return Decision(Step.END_LOST_TARGET, "what is left of the copy is ended on the operator's word")
        return Decision(Step.RESUME_ON_WORD, "nothing of the copy is left, and the source is preferred")
    return held(f"{there}; the source is frozen and complete; {EITHER if runs_whole else THE_SOURCE}")


def _unpermitted(source: Mapping[str, Any], remains: str, there: str, want: Want, words: Words) -> Decision:
    """The source never voted READY, or was let run since: what is left of a copy there must not run."""
    if not rests(source):
        return Decision(Step.RESUME, "the source never voted READY, so nothing was permitted")
    if not remains:
        return back(source)
    if remains != "running" or (want is Want.BACK and words.on_word):
        return Decision(Step.END_LOST_TARGET, "the source runs, and what is left of the copy goes")
    text = "end one of them now; to end what is left of the copy: reberth recover ID --rollback"
    return held(f"the source was let run, and {there}: {text}")
