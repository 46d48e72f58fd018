"""The protocol's questions to a node that is only an API: answered from what both daemons say and the run has noted.

There are no votes and no verdicts: the daemons permit and give up by themselves. So the facts are put together
afterwards, when both have ended their part, and only such that `decide` (docs/protocol.md) goes where the container is.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from reberth_hooks import CommandError, ConnectionLostError, Move, Node, ReberthError, hookimpl
from reberth_lxd.api.client import OVER, RUNNING, STOPPED, Daemon, over
from reberth_lxd.held import phases

RUNS, RESTS, MISSING, UNCLEAR, SILENT = "runs", "rests", "missing", "unclear", "silent"
HOLLOW = "hollow"  # said to run, without a process: it rests if that lasts
PATIENCE_S = 150.0  # the daemons wait a minute for each other, and LXD 5.0.2 one more for a stop of its own
NOTICE_S = 10.0
REVIVE_S = 100.0
MOVES = ("migrat", "creat")  # of an operation's description
Facts = dict[str, Any]


@hookimpl
def reberth_answer(node: Node, op: str, args: dict[str, object], move: Move | None) -> dict[str, object]:
    """Answer in the place of the helper that is not there."""
    if op == "hello":
        said = Daemon(node, None).environment
        machine = {"hostname": said.get("server_name"), "kernel": said.get("kernel_version")}
        return {"api": True, "arch": said.get("kernel_architecture"), **machine}
    assert move is not None, "the protocol asks in a run alone"
    if op == "release" and args.get("how") == "resume":
        return _revive(move)
    if op == "decide" and args.get("value") == "ABORT":
        return _take_back(move)
    source, target = look(move)
    found = source if node.name == move.plan.source.name else target
    if found is None:
        raise ConnectionLostError(f"the daemon of node {node.name} does not answer")
    return found


def look(move: Move) -> tuple[Facts | None, Facts | None]:
    """Facts of both ends, when both daemons have ended their part; None for one that does not answer."""
    if not move.recall("offered"):
        return {}, {}  # nothing was begun
    source, target = _states(move)
    if source == target == RUNS:
        source, target = _both(move)
    if target == RUNS and source not in (RUNS, UNCLEAR) and not move.recall("seen"):
        time.sleep(phases.TWICE_S)
        source, target = _states(move)
        move.note("seen", target == RUNS)
    return _source(move, source, target), _target(move, source, target)


def _both(move: Move) -> tuple[str, str]:
    """Both are said to run: true when the source's part has failed, else its daemon is about to notice its end."""
    given_up = _succeeded(move)
    deadline = time.monotonic() + (PATIENCE_S if given_up else NOTICE_S)
    while not _failed(move) and time.monotonic() < deadline:
        time.sleep(phases.ASK_S)
        found = _states(move)
        if found != (RUNS, RUNS):
            return found
    return (UNCLEAR if given_up else RUNS), RUNS


def _source(move: Move, source: str, target: str) -> Facts | None:
    facts = {"role": "source", "froze": True}
    if source == SILENT:
        return None
    if source == RUNS:
        return {**facts, "resumed": True}
    if source == UNCLEAR:
        return {**facts, "vote": "UNREADABLE"}
    if target == RUNS:
        return {**facts, "released": True}
    if target in (SILENT, UNCLEAR):
        return {**facts, "held": True, "vote": "READY"}  # it may run there
    if source == MISSING:
        return {**facts, "resumed": True, "gone": True}
    return {**facts, "held": True}  # neither runs: it has to be revived


def _target(move: Move, source: str, target: str) -> Facts | None:
    facts = {"role": "target"}
    if target == SILENT:
        return None
    if target == UNCLEAR:
        return {**facts, "verdict": "UNREADABLE"}
    if target != RUNS:
        return {}
    given_up = source in (RESTS, MISSING) or (source == SILENT and _succeeded(move))
    if given_up:
        return {
            **facts,
            "verdict": "PERMIT",
            "landed": True,
            "running_ns": int(move.recall("running_ns") or 1),
            "cleaned": True,
        }
    if source == RUNS:
        return {**facts, "holding": True}  # both run: the source's daemon gave up when the copy ran already
    return {**facts, "verdict": "UNREADABLE"}


def _succeeded(move: Move) -> bool:
    return bool((move.recall("ended.source") or {}).get("status_code") == OVER)


def _failed(move: Move) -> bool:
    return int((move.recall("ended.source") or {}).get("status_code") or 0) > OVER


def _states(move: Move) -> tuple[str, str]:
    """Return how the container is at both ends, once no operation of either daemon moves it any more."""
    begun, since = time.monotonic(), 0.0
    while True:
        now, found = time.monotonic(), [_state(move, side) for side in (0, 1)]
        since = (since or now) if HOLLOW in found else 0.0
        if since and (move.recall("hollow") or now - since > NOTICE_S):
            if not move.recall("hollow"):
                move.note("hollow", True)  # it lasts: the next look need not wait for it
            found = [RESTS if state == HOLLOW else state for state in found]
        if not {UNCLEAR, HOLLOW} & {*found} or now - begun > PATIENCE_S:
            return found[0], found[1]
        with contextlib.suppress(ConnectionLostError):
            move.source.call("ping")
        time.sleep(phases.ASK_S)


def _state(move: Move, side: int) -> str:
    """One end; unclear as long as its daemon is at it."""
    name = move.plan.workload.name
    if side == 1 and not move.recall("created"):
        return MISSING  # none of ours
    try:
        daemon = _daemon(move, side)
        if any(_moves(one, name) for one in daemon.operations()):
            return UNCLEAR
        found = daemon.get("instances", name)
        if found is None:
            return MISSING
        if found["status_code"] == RUNNING:
            return RUNS if phases.runs(daemon, name) else HOLLOW if phases.hollow(daemon, name) else UNCLEAR
        return RESTS if found["status_code"] == STOPPED else UNCLEAR
    except ReberthError:
        return SILENT


def _daemon(move: Move, side: int) -> Daemon:
    """By the node of the plan: in `recover` its end may not be there any more."""
    return Daemon((move.plan.source, move.plan.target)[side], None)


def _moves(operation: dict[str, Any], name: str) -> bool:
    """Tell whether an operation is a part of a move of this container, and goes on."""
    words = str(operation.get("description", "")).lower()
    named = [url for urls in (operation.get("resources") or {}).values() for url in urls or ()]
    ours = any(url.partition("?")[0].rpartition("/")[2] == name for url in named)
    return ours and not over(operation) and any(word in words for word in MOVES)


def _take_back(move: Move) -> Facts:
    """Both run: the source was never given up, so the copy is ended at once; its record goes at the end of the run."""
    name = move.plan.workload.name
    move.emit("warning", f"{name} ran on both nodes for a moment: the copy on {move.plan.target.name} is ended")
    _daemon(move, 1).put("instances", name, "state", json={"action": "stop", "force": True, "timeout": 30})
    return {"role": "target", "verdict": "ABORT", "taken_back": True}


def _revive(move: Move) -> Facts:
    """Neither runs: the snapshot of before the move is restored, or where there is none it is started afresh.

    The target's record must be known to rest first; it was made such that it does not start with its daemon.
    """
    name, facts = move.plan.workload.name, {"role": "source", "froze": True, "resumed": True}
    source, target = _states(move)
    if source == RUNS:
        return facts
    if target not in (RESTS, MISSING):
        raise CommandError(f"{name} may run on {move.plan.target.name}: it is not started on the source")
    if not _to_snapshot(move):
        text = f"the daemons said success, and {name} did not run: it was started afresh, its memory is lost"
        move.note("lost", text)
        _insist(_daemon(move, 0), name, "state", json={"action": "start", "timeout": 30})
    return facts


def _to_snapshot(move: Move) -> bool:
    """Tell whether it runs again as it was before the move."""
    snapshot, name = move.recall("snapshot"), move.plan.workload.name
    daemon = _daemon(move, 0)
    if not snapshot or move.recall("lost") or daemon.get("instances", name, "snapshots", str(snapshot)) is None:
        return False
    try:
        _insist(daemon, name, json={"restore": str(snapshot), "stateful": True})
    except CommandError as error:
        move.emit("warning", f"the snapshot {snapshot} cannot be restored: {error.message}")
        return False
    if not phases.runs(daemon, name):
        return False  # LXD may call that a success too
    move.note("set-back", f"{name} runs as it was before the move: what it did since is undone")
    return True


def _insist(daemon: Daemon, *path: str, json: dict[str, Any]) -> None:
    """Do it, as soon as the daemon has ended what it is still busy with; CommandError when that takes too long."""
    deadline = time.monotonic() + REVIVE_S
    while True:
        try:
            daemon.put("instances", *path, json=json)
            return
        except CommandError as error:
            if "busy" not in error.message.lower() or time.monotonic() > deadline:
                raise
        time.sleep(1.0)
