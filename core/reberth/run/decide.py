"""Who may run the workload: a pure function of what both ends say, the same for the engine and for `recover`.

Facts of an end are what its helper answers (`facts`): None when the end cannot be reached, an empty mapping when it
was never asked to open the run, `lost` when it was and knows nothing (`run/lost.py`). `decide` gives the next step or
the end of the run; after each step both ends are looked at again. The rules behind each row are in docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reberth.run import lost
from reberth.run.decision import (
    BOTH_GONE,
    DEAD,
    ENDED,
    IF_DEAD,
    IF_GONE,
    KEPT,
    MOVED,
    ON_WORD,
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
from reberth_hooks import Exit

__all__ = ["Decision", "Facts", "Step", "Want", "Words", "decide"]

BOTH_RUN = (
    "the source was let run again, and a copy runs on the target as well: end one of them now; to end the copy: "
    "reberth recover ID --rollback; to keep the copy (end the source's yourself first): reberth recover ID --forward"
)


def decide(source: Facts, target: Facts, want: Want, **words: bool) -> Decision:
    """The next step of a run; `words` are the fields of `Words`."""
    return _decide(source, target, want, Words(**words))


def _decide(source: Facts, target: Facts, want: Want, words: Words) -> Decision:
    if source is not None and source.get("lost"):
        return lost.source(source, target, want, words, _decide)
    if target is None:
        return _target_unreachable(source, want, words)
    if target.get("lost"):
        return lost.target(source, target, want, words)
    verdict = target.get("verdict")
    if verdict == "PERMIT":
        return _permitted(source, target, want, words)
    if verdict == "UNREADABLE":
        return _unreadable(source, target, want, words)
    if verdict == "ABORT":
        return _aborted(source, target, words)
    return _undecided(source, target, want, words)


def _target_unreachable(source: Facts, want: Want, words: Words) -> Decision:
    if source is None:
        return BOTH_GONE if words.source_is_dead and words.target_is_gone else held("neither node can be reached")
    if source.get("released"):
        if words.target_is_gone:
            return Decision(None, "the source was given up, and the target is gone", "ended", exit_code=Exit.ENDED)
        return left_over("the source was given up, the target cannot be asked")
    if rests(source):
        return back(source)
    alone = source.get("gone") and source.get("held")  # then a copy that is held there is the only one
    if not alone and source.get("vote") not in ("READY", "UNREADABLE"):
        # Without READY there is no PERMIT, and from RESUME on there never is: the target aborts when it hears of it.
        return Decision(Step.RESUME, "the target cannot be reached and nothing was permitted")
    if words.target_is_gone and want is Want.BACK:
        return Decision(Step.RESUME_ON_WORD, "the target is gone, as the operator says")
    if alone:
        return held(f"the source's tasks are gone, and the target, which may hold a copy, cannot be asked; {IF_GONE}")
    return held(f"the source has voted READY and the target cannot be asked for its verdict; {IF_GONE}")


def _permitted(source: Facts, target: Mapping[str, Any], want: Want, words: Words) -> Decision:
    if target.get("taken_back"):  # it could not go on, and was discarded on the operator's word
        return _discarded(source, words)
    if found := _lives(source, target, want, words):
        return found
    if target.get("landed"):
        return _landed(source, target, want, words)
    settled = target.get("landing_failed") or target.get("ended")
    if source is not None and source.get("resumed"):
        return back(source) if settled else Decision(Step.DISCARD, "the source was let run again")
    if not settled:
        # Held, or landing this very moment, or cut off in it: only the target's lock tells, and ends it either way.
        return Decision(Step.PERMIT, "PERMIT stands: the copy lands, or the target proves that it never will")
    if source is None and words.source_is_dead:
        return DEAD
    if target.get("may_have_run"):
        if source and want is Want.BACK and words.prefers_source:
            return Decision(Step.RESUME_ABORTED, "the source as it was at the freeze is preferred")
        return held(f"PERMIT stands, and the copy ended when it may have run for a moment; {ON_WORD}")
    if source and want is Want.BACK and (words.rollback_unlanded or words.prefers_source):
        return Decision(Step.RESUME_ABORTED, "the copy never ran, as the target's journal proves")
    return held(f"PERMIT stands but the copy ended before it ran; the source is frozen and complete; {ON_WORD}")


def _lives(source: Facts, target: Mapping[str, Any], want: Want, words: Words) -> Decision | None:
    """Return the decision while the copy was not seen to live, or once it did not; None: it lives.

    What a copy that did not live has done meanwhile is not known: only a word makes the source run again.
    """
    if source and (source.get("resumed") or source.get("released")):
        return None
    if target.get("unseen") and not target.get("rebooted"):
        return Decision(Step.LOOK, "the copy runs: it is seen to live before the source goes")
    if not target.get("ill"):
        return None
    if source is None and not (words.forward and words.source_is_dead):
        return held(f"the copy ran and did not live, and the source cannot be reached; {IF_DEAD}")
    if words.forward:
        return None  # its end is accepted
    if source and want is Want.BACK and (words.rollback_unlanded or words.prefers_source):
        return Decision(Step.DISCARD, "the copy did not live, and the source as it was at the freeze is preferred")
    seen = target.get("ailment") or "the copy ran and ended"
    return held(f"the copy did not live: {seen}; {ON_WORD}; to accept its end: reberth recover ID --forward")


def _discarded(source: Facts, words: Words) -> Decision:
    if source is None:
        why = f"the copy was discarded; the source cannot be reached; {IF_DEAD}"
        return DEAD if words.source_is_dead else held(why)
    return back(source) if rests(source) else Decision(Step.RESUME_ABORTED, "the copy was discarded")


def _landed(source: Facts, target: Mapping[str, Any], want: Want, words: Words) -> Decision:
    if source is not None and source.get("resumed") and not source.get("gone"):
        return _both_run(target, want, words)
    if not target.get("running_ns") and not target.get("ended"):
        return Decision(Step.PERMIT, "the copy has landed and is still frozen")
    filling = target.get("lazy") and not target.get("filled")
    if source is None:
        return _landed_alone(target, want, words, bool(filling))
    if not source or source.get("released") or source.get("resumed"):  # given up, or let go when nothing was left of it
        return _given_up(target)
    if target.get("rebooted"):
        if want is Want.BACK and words.prefers_source:
            return Decision(
                Step.DISCARD, "the copy ended with its node; the source as it was at the freeze is preferred"
            )
        return held(f"the target restarted after the copy had run; {ON_WORD}")
    if filling:
        return _filling(source, target, want, words)
    return _give_up(source, words)


def _landed_alone(target: Mapping[str, Any], want: Want, words: Words, filling: bool) -> Decision:
    """The copy has landed, and the source cannot be reached."""
    if filling and not target.get("ended"):
        return _filling(None, target, want, words)
    if words.source_is_dead:
        return _given_up(target)
    return left_over(f"the copy runs; the source cannot be reached; {IF_DEAD}")


def _given_up(target: Mapping[str, Any]) -> Decision:
    if not target.get("ended") and not target.get("cleaned"):
        return Decision(Step.FINISH, "the source was given up")
    return ENDED if target.get("ill") else MOVED


def _give_up(source: Mapping[str, Any], words: Words) -> Decision:
    """The source is still there beside a copy that runs: it goes, and has voted READY before."""
    vote = source.get("vote")
    if vote == "READY":
        return Decision(Step.COMMIT, "the copy runs on the target")
    if vote == "UNREADABLE":  # the copy was permitted, so it had voted READY
        if words.forward:
            return Decision(Step.COMMIT, "the copy runs on the target, as the operator says")
        return left_over("the copy runs; the source's vote cannot be read; to give it up: reberth recover ID --forward")
    if source.get("gone"):  # the copy was let go on the operator's word that the source is dead
        return Decision(Step.RESUME, "the source's tasks are gone: it is told that its run is over")
    if vote is None:
        return Decision(Step.ASK_READY, "the copy runs on the target: the source must not wake any more")
    return held(BOTH_RUN)


def _both_run(target: Mapping[str, Any], want: Want, words: Words) -> Decision:
    """The source was let run again, on a word that was wrong: what is on the target is not ended without another."""
    if target.get("rebooted") or target.get("ill") or not target.get("tasks"):
        return Decision(Step.DISCARD, "the source runs, and the copy has ended")
    if want is Want.BACK and words.on_word:
        return Decision(Step.DISCARD, "the source runs, and the copy is given up on the operator's word")
    return _given_up(target) if words.forward else held(BOTH_RUN)


def _filling(source: Facts, target: Mapping[str, Any], want: Want, words: Words) -> Decision:
    """The copy runs but not all of its memory is there: the source stays, frozen and complete."""
    if not target.get("fill_failed"):
        return Decision(Step.FILL, "the copy runs, its pages are coming in")
    if want is Want.BACK and source and (words.prefers_source or (words.rollback_unlanded and source.get("tasks"))):
        return Decision(Step.DISCARD, "the fill failed, and the source as it was at the freeze is preferred")
    if source is None and words.source_is_dead:
        return Decision(Step.DISCARD, "the fill failed, and the source, which had the rest, is dead")
    return held("the copy ran, but the fill of its memory failed: it blocks", Exit.HELD_POST_COPY)


def _unreadable(source: Facts, target: Mapping[str, Any], want: Want, words: Words) -> Decision:
    """Nobody can know whether the copy was permitted: only the operator's word ends it."""
    if target.get("taken_back"):
        return _discarded(source, words)
    if want is Want.BACK and words.prefers_source and source is not None:
        return Decision(Step.DISCARD, "the target's verdict cannot be read, and the source is preferred")
    return held(f"the target's verdict cannot be read; {ON_WORD}")


def _aborted(source: Facts, target: Mapping[str, Any], words: Words) -> Decision:
    if not target.get("taken_back") and not target.get("ended"):
        return Decision(Step.ABORT, "ABORT stands and the copy is not yet taken back")
    if source is None:
        if words.source_is_dead:
            return DEAD
        why = target.get("given_up") or "the target aborted"
        return held(
            f"{why}; the source cannot be reached: it runs again by itself unless it had voted or lost its power; "
            f"{IF_DEAD}"
        )
    if rests(source):
        return back(source)
    return Decision(Step.RESUME_ABORTED, "the target says ABORT")


def _undecided(source: Facts, target: Mapping[str, Any], want: Want, words: Words) -> Decision:
    known = bool(target) and not target.get("ended")
    copy_held = bool(known and target.get("holding"))
    if copy_held and source is None and target.get("keeps"):
        return _without_the_source(words)
    if copy_held and source and _may_go_on(source, target, want):
        vote = source.get("vote")
        if vote is None:
            return Decision(Step.ASK_READY, "the copy is held and verified")
        if vote == "READY":
            return Decision(Step.PERMIT, "the source has voted READY")
    if known:
        return Decision(Step.ABORT, "the run goes back")
    return _never_restored(source, want, words)


def _never_restored(source: Facts, want: Want, words: Words) -> Decision:
    """The target was never asked to open the run, or has put it away."""
    if source is None:
        if words.source_is_dead:
            return DEAD
        return held(f"the source cannot be reached, and the target knows nothing of this run; {IF_DEAD}")
    if source.get("released"):
        return MOVED
    if rests(source):
        return back(source)
    if source.get("vote") in ("READY", "UNREADABLE"):
        if want is Want.BACK and words.prefers_source:
            return Decision(Step.RESUME_ON_WORD, "the target knows nothing of this run, and the source is preferred")
        return held(f"the source has voted READY and the target knows nothing of this run; {ON_WORD}")
    return Decision(Step.RESUME, "the target was never asked to restore")


def _may_go_on(source: Mapping[str, Any], target: Mapping[str, Any], want: Want) -> bool:
    """Tell whether a held copy may be let go once the source has voted.

    The source's node restarted, or its frozen tasks were killed: then the held copy is the only one there is.
    """
    alone = source.get("gone") and source.get("held") and not target.get("needs_source")
    return bool(alone or (want is Want.FORWARD and source.get("holding")))


def _without_the_source(words: Words) -> Decision:
    """The whole copy is held and the source cannot be asked: it is never taken back for that alone."""
    if words.source_is_dead:
        return Decision(Step.PERMIT_ON_WORD, "the source is dead, as the operator says")
    if words.ready and not words.prefers_source:
        return Decision(Step.PERMIT, "the source has voted READY, and cannot be reached since")
    return held(KEPT + IF_DEAD)
