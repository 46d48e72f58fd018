"""The state of a near-live move, told to `decide` in the protocol's words: from both daemons and the journal.

No helper has anything to say here: nothing is frozen, and the controller alone starts or stops it. The copy can
run only once `starting` is journaled, before which the source was seen stopped; `landed` is journaled when the copy was
seen running twice.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from reberth_hooks import CommandError, ConnectionLostError, Move, Node, ReberthError
from reberth_lxd.api.client import RUNNING, STOPPED, over
from reberth_lxd.held import phases
from reberth_lxd.near_live import phases as near

RUNS, RESTS, MISSING, UNCLEAR, SILENT = "runs", "rests", "missing", "unclear", "silent"
PATIENCE_S = 150.0
CHANGES = ("start", "stop", "shut", "delet")  # of an operation's description; a copy under way starts nothing
Facts = dict[str, Any]


def answer(move: Move, node: Node, op: str, args: dict[str, Any]) -> Facts:
    """Answer `facts` and what the protocol's steps ask for; ConnectionLostError for a daemon that does not answer."""
    if op == "release" and args.get("how") == "resume":
        return _revive(move, on_word=bool(args.get("aborted")))
    if not (move.recall("created") or move.recall("stopping")):
        return {}  # nothing was begun
    with contextlib.suppress(ReberthError):
        near.end_operations(move)  # the run is being settled: no copy is under way for it any more
    states = _states(move)
    found = judge_source(move, *states) if node.name == move.plan.source.name else judge_target(move, *states)
    if found is None:
        raise ConnectionLostError(f"the daemon of node {node.name} does not answer")
    return found


def judge_source(move: Move, source: str, target: str) -> Facts | None:
    """Facts of the source; None when it does not answer."""
    facts: Facts = {"role": "source", "froze": bool(move.recall("stopping"))}
    if source == SILENT:
        return None
    if move.recall("landed"):
        return {**facts, "released": True}
    if source == RUNS:
        return {**facts, "resumed": True}
    if source == UNCLEAR:
        return {**facts, "vote": "UNREADABLE"}
    if target in (RUNS, UNCLEAR, SILENT) and move.recall("starting"):
        return {**facts, "held": True, "vote": "READY"}  # it may run there
    return {**facts, "resumed": True, "gone": True} if source == MISSING else {**facts, "held": True}


def judge_target(move: Move, source: str, target: str) -> Facts | None:
    """Facts of the target; None when it does not answer, nothing for a copy that never ran."""
    facts: Facts = {"role": "target"}
    landed = {**facts, "verdict": "PERMIT", "landed": True, "cleaned": True}
    landed["running_ns"] = int(move.recall("running_ns") or 1)
    if target == SILENT:
        return None
    if move.recall("landed"):
        return landed
    if target == RUNS and move.recall("starting") and source in (RUNS, SILENT):
        return landed  # beside a source that runs too `decide` holds the run
    if target in (RUNS, UNCLEAR) and (target == RUNS or move.recall("starting")):
        return {**facts, "verdict": "UNREADABLE"}
    if target == RESTS and move.recall("starting") and not move.recall("start-failed") and _used(move):
        return {**facts, "verdict": "PERMIT", "landing_failed": True, "may_have_run": True}
    return {}


def _used(move: Move) -> bool:
    return near.used(phases.daemon(move, 1).get("instances", move.plan.target_name) or {})


def _states(move: Move) -> tuple[str, str]:
    """Return how it is at both ends once no operation changes it any more.

    A copy that runs beside no source is `landed`.
    """
    deadline, seen = time.monotonic() + PATIENCE_S, False
    while True:
        source, target = _state(move, 0), _state(move, 1)
        alone = target == RUNS and source in (RESTS, MISSING) and bool(move.recall("starting"))
        if alone and (seen or move.recall("landed")):
            if not move.recall("landed"):
                move.note("landed", True)
            return source, target
        if not alone and (UNCLEAR not in (source, target) or time.monotonic() > deadline):
            return source, target
        seen = alone
        time.sleep(phases.TWICE_S if alone else phases.ASK_S)


def _state(move: Move, side: int) -> str:
    """One end; unclear as long as its daemon is at it."""
    name = move.plan.workload.name
    try:
        daemon = phases.daemon(move, side)
        if any(_changes(one, name) for one in daemon.operations()):
            return UNCLEAR
        found = daemon.get("instances", name)
        if found is None or (side == 1 and not move.recall("created")):
            return MISSING  # none of ours
        if found["status_code"] == RUNNING:
            return RUNS if phases.runs(daemon, name) else UNCLEAR
        return RESTS if found["status_code"] == STOPPED else UNCLEAR
    except ReberthError:
        return SILENT


def _changes(operation: dict[str, Any], name: str) -> bool:
    """Tell whether an operation starts, stops or removes this container, and goes on."""
    words = str(operation.get("description", "")).lower()
    named = [url for urls in (operation.get("resources") or {}).values() for url in urls or ()]
    ours = any(url.partition("?")[0].rpartition("/")[2] == name for url in named)
    return ours and not over(operation) and any(word in words for word in CHANGES)


def _revive(move: Move, *, on_word: bool) -> Facts:
    """Start the source again, once the copy is known not to run; CommandError while it may."""
    name, facts = move.plan.workload.name, {"role": "source", "froze": bool(move.recall("stopping")), "resumed": True}
    source, target = _states(move)
    if source == RUNS:
        return facts
    if target not in (RESTS, MISSING) and move.recall("starting"):
        text = f"{name} may run on {move.plan.target.name}: it is not started on the source"
        raise CommandError(text, hint=f"look at it there; then: reberth recover {move.id}")
    if on_word:
        move.note("given-up", True)
    move.emit("step", f"{name} is started again on {move.plan.source.name}")
    start, daemon = {"action": "start", "timeout": near.START_S}, phases.daemon(move, 0)
    near.when_free(lambda: daemon.put("instances", name, "state", json=start))
    return facts
