"""The phases of a container that two daemons move: we hold their criu, watch them, and clean up after them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from reberth_hooks import (
    Checkpoint,
    CommandError,
    HelperError,
    Iteration,
    Move,
    ReberthError,
    Receipt,
    Restored,
    Round,
    hookimpl,
)
from reberth_lxd.api import keys, rendezvous
from reberth_lxd.api.client import OVER, RUNNING, STOPPED, Daemon, over
from reberth_lxd.api.explain import explain
from reberth_lxd.api.keys import is_on
from reberth_lxd.held import backdate
from reberth_lxd.https.connect import over_api

LOOK_S, ASK_S = 0.02, 0.25
END_S = 150.0  # after a failed restore LXD 5.0.2 waits 60 s for hooks of its own; twice where criu was never started
TWICE_S = 1.0
PROTECTED = "security.protection.delete"


def fetch(source: Daemon, name: str) -> dict[str, Any]:
    found = source.get("instances", name)
    if found is None:
        hint = source.spoken(f"look for it: lxc list {name}")
        raise CommandError(f"the daemon of {source.node.name} has no {name} any more", hint=hint)
    return found


def daemon(move: Move, side: int) -> Daemon:
    """Return the daemon of an end, by the socket that the plan found."""
    shell = (move.source, move.target)[side]
    return Daemon(shell.node, shell, move.plan.details["sockets"][side])


@hookimpl
def reberth_prepare(move: Move) -> bool:
    """Plant the scripts, the target's first; then set the keys for this move, their old values journaled before."""
    details, source = move.plan.details, daemon(move, 0)
    name = move.plan.workload.name
    if details["snapshot_first"]:
        take_snapshot(move, source)
    instance = fetch(source, name)
    move.target.call("gate", leaf=details["leaf"], worker=["forkmigrate", name])
    root = {"root_pid": details["pid"], "start_ticks": details["start_ticks"]}
    move.source.call("gate", leaf=details["leaf"], **root, pauses=True)
    move.note("keys", keys.saved(instance["config"]))
    source.patch("instances", name, json={"config": details["keys"]})
    for key, value in details["keys"].items():
        move.emit("step", f"{key} = {value} for this move")
    return True


def take_snapshot(move: Move, source: Daemon) -> None:
    """A state of before the move, taken while nothing of ours is planted; it goes at the end of the run."""
    snapshot = f"reberth-{move.id}"
    move.note("snapshot", snapshot)
    move.emit("step", f"the daemon takes the stateful snapshot {snapshot}")
    source.create("instances", move.plan.workload.name, "snapshots", json={"name": snapshot, "stateful": True})


def _drop_snapshot(move: Move, side: Daemon) -> None:
    """Remove it where it is; one that never came to be is gone already."""
    if move.recall("snapshot"):
        side.delete("instances", move.plan.workload.name, "snapshots", str(move.recall("snapshot")))


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    """Let the daemons move it until the copy is complete and held; then fence the source, which its criu holds."""
    details, name = move.plan.details, move.plan.workload.name
    source, target = daemon(move, 0), daemon(move, 1)
    instance, begun_s = fetch(source, name), backdate.wall_s(move)
    with rendezvous.begin(move, source, target, instance, partial(_begun, move, (source, target))):
        held = _until_held(move, source, target, begun_s)
        fenced = move.source.call("fence")
    move.note("held", held)
    seconds = (fenced["held_ns"] - fenced["frozen_ns"]) / 1e9
    earlier = tuple(Iteration(index, **_counts(one)) for index, one in enumerate(fenced["rounds"]))
    final = Iteration(len(earlier), bytes=fenced["pages_bytes"], seconds=seconds, frozen_us=int(seconds * 1e6))
    move.note("images_bytes", fenced["images_bytes"])
    why = keys.why_stopped(details["wanted"], [(one.pages_written, one.pages_skipped_parent) for one in earlier])
    return Checkpoint((), final, fenced["frozen_ns"], fenced["held_ns"], earlier, why)


def _begun(move: Move, daemons: tuple[Daemon, Daemon], side: int, url: str) -> None:
    """The script stays planted while this goes on."""
    (move.source, move.target)[side].call("gate_until", path=daemons[side].socket, url=url, cancel=side == 0)


def _counts(one: dict[str, int]) -> dict[str, Any]:
    """Return a round of the daemon's loop in our words."""
    names = ("pages_scanned", "pages_written", "pages_skipped_parent", "bytes", "frozen_us")
    seconds = (one.get("memdump_us", 0) + one.get("memwrite_us", 0)) / 1e6
    return {**{name: int(one.get(name, 0)) for name in names}, "seconds": seconds}


def _until_held(move: Move, source: Daemon, target: Daemon, begun_s: float) -> dict[str, Any]:
    """Wait for the copy that our script holds; an operation that ends before that has failed, whatever it says.

    Between the first sync of the files and the first dump the copy is dated back.
    """
    asked, told, is_dated = 0.0, "", False
    while True:
        try:
            held: dict[str, Any] | None = move.target.call("gate_hold")
        except HelperError as error:
            if error.kind != "tool-failed":
                raise
            cause, hint = explain(error.tail)
            text = f"the copy could not be built: {cause}"
            raise CommandError(text, hint=error.hint or hint, tail=error.tail) from error
        if held is not None:
            return held
        if time.monotonic() - asked > ASK_S:
            asked = time.monotonic()
            is_dated = is_dated or backdate.before_dump(move, target, begun_s)
            ends = [operation(move, source, "source"), operation(move, target, "target")]
            told = tell(move, ends, told)
            if any(map(over, ends)):
                # both may end at once, a moment after the copy was held
                if (held := move.target.call("gate_hold")) is not None:
                    return dict(held)
                raise _failure(move, source, target)
        time.sleep(LOOK_S)


def operation(move: Move, side: Daemon, word: str) -> dict[str, Any]:
    return side.operation(str(move.recall(f"operation.{word}")))


def tell(move: Move, ends: list[dict[str, Any]], told: str) -> str:
    """Progress of the file system, as both operations show it."""
    words = [str((end.get("metadata") or {}).get("fs_progress") or "") for end in ends]
    text = next((word for word in words if word), "")
    if text and text != told:
        move.emit("progress", text)
    return text


def _failure(move: Move, source: Daemon, target: Daemon) -> CommandError:
    """Return what both operations say, since the failing side's own words are often with the other one."""
    said = []
    for word, side in (("source", source), ("target", target)):
        end = _settled(move, side, word, 5.0)
        if end.get("err"):
            said.append(f"{side.node.name}: {end['err']}")
        elif end["status_code"] == OVER:
            said.append(f"{side.node.name}: success, and yet no copy was ever built there")
    cause, hint = explain("\n".join(said))
    return CommandError(f"the daemons did not move it: {cause}", hint=hint, tail="\n".join(said))


def _settled(move: Move, side: Daemon, word: str, limit_s: float) -> dict[str, Any]:
    """Return the operation when it is over, or as it is at the end of the time."""
    deadline = time.monotonic() + limit_s
    while True:
        found = operation(move, side, word)
        if over(found) or time.monotonic() > deadline:
            return found
        time.sleep(LOOK_S)


@hookimpl
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    """The daemon has built the copy already; it is held."""
    held = move.recall("held")
    return Restored(move.plan.target_name, held["pid"], held["tasks"], held["held_ns"])


@hookimpl
def reberth_commit(move: Move) -> bool:
    """The copy runs, and says so twice: only then the old instance is removed (or kept, stopped, on request)."""
    name = move.plan.workload.name
    source, target = daemon(move, 0), daemon(move, 1)
    for word, side in (("source", source), ("target", target)):
        _settled(move, side, word, END_S)
    for wait_s in (0.0, TWICE_S):
        time.sleep(wait_s)
        if not runs(target, name):
            status = (target.get("instances", name) or {}).get("status") or "missing"
            text = f"the daemon of {target.node.name} says that {name} is {status}; the old one is not removed"
            hint = target.spoken(f"look at it: lxc info {name}; then: reberth recover {move.id}")
            raise CommandError(text, hint=hint)
    target.patch("instances", name, json={"config": {keys.AUTOSTART: move.recall("keys")[keys.AUTOSTART]}})
    _drop_snapshot(move, target)
    old = _come_to_rest(source, name)
    if old is None:
        return True
    if old["status_code"] != STOPPED:
        text = f"the daemon of {source.node.name} says that the old {name} is {old['status']}: it is not removed"
        raise CommandError(text, hint=f"reberth recover {move.id} tries again")
    if move.plan.details["keep_source"]:
        _drop_snapshot(move, source)
        left_off = {keys.AUTOSTART: "false"}  # it must not start with its daemon beside the new one
        source.patch("instances", name, json={"config": {**move.recall("keys"), **left_off}})
    else:
        delete(source, name)
    return True


def _come_to_rest(source: Daemon, name: str) -> dict[str, Any] | None:
    """Return the old instance when its daemon has noticed its end, on a busy node seconds after the operation's end."""
    deadline = time.monotonic() + END_S
    while True:
        old = source.get("instances", name)
        if old is None or old["status_code"] == STOPPED or time.monotonic() > deadline:
            return old
        time.sleep(ASK_S)


@hookimpl
def reberth_rollback(move: Move) -> bool:
    """Both operations end, the keys are put back, what is left on the target goes; the source was never touched."""
    if (move.recall("keys") is None and move.recall("snapshot") is None) or move.recall("tidied"):
        return True
    move.emit("warning", "the source runs; its daemons may need a minute to end their part")
    return tidied(move, _put_back)


def _put_back(move: Move) -> None:
    source, name = daemon(move, 0), move.plan.workload.name
    if move.recall("operation.source"):
        _settled(move, source, "source", END_S)
    if move.recall("keys") is not None:
        source.patch("instances", name, json={"config": move.recall("keys")})
    _drop_snapshot(move, source)
    if move.recall("created"):
        _remove_remains(move, source)


def tidied(move: Move, put_back: Callable[[Move], None]) -> bool:
    """Put back what a move has changed, and journal whether that went; what did not is said, and left to `recover`."""
    try:
        put_back(move)
    except ReberthError as error:
        move.emit("warning", f"not all is as before: {error.message}; see reberth recover {move.id}")
        move.note("untidy", error.message)
        return True
    move.note("tidied", True)
    return True


def delete(side: Daemon, name: str) -> None:
    """Remove an instance that the move has given up, also where it is protected: its copy has the key as it was.

    The native client does the same (`lxc move`, LXD 4.12 and later).
    """
    found = side.get("instances", name) or {}
    if is_on((found.get("expanded_config") or {}).get(PROTECTED)):
        side.patch("instances", name, json={"config": {PROTECTED: "false"}})
    side.delete("instances", name)


def runs(side: Daemon, name: str) -> bool:
    """Tell whether the daemon says that it runs, and has processes."""
    state = side.get("instances", name, "state") or {}
    return state.get("status_code") == RUNNING and bool(state.get("processes"))


def hollow(side: Daemon, name: str) -> bool:
    """Tell whether the daemon says that it runs, and knows of no process: LXD 5.0.2 after some restores that failed.

    That lasts until the daemon is started again; nothing can stop or change the instance before.
    """
    state = side.get("instances", name, "state") or {}
    gone = int(state.get("pid") or 0) <= 0 and not state.get("processes")
    return state.get("status_code") == RUNNING and gone


def _remove_remains(move: Move, source: Daemon) -> None:
    """The target's record of the copy, once its daemon lets go of it; never while the source does not run.

    Raises CommandError where both daemons say something else than this run: then nothing is removed.
    """
    name, deadline = move.plan.workload.name, time.monotonic() + END_S
    target = daemon(move, 1)
    if move.recall("operation.target"):
        ended = _settled(move, target, "target", END_S)
        move.note("ended.target", {key: ended.get(key) for key in ("status_code", "err")})
    while True:
        left = target.get("instances", name)
        if left is None:
            return
        if not runs(source, name):
            text = f"the daemon of {source.node.name} does not say that {name} runs, so nothing of it is removed"
            raise CommandError(text, hint=source.spoken(f"lxc info {name}, on both nodes"))
        if over_api(target.node) and hollow(target, name):
            text = f"the daemon of {target.node.name} says that {name} runs, and knows of no process of it"
            raise CommandError(text, hint=f"start that daemon again, then: reberth recover {move.id}")
        try:
            if left["status_code"] == RUNNING:
                target.put("instances", name, "state", json={"action": "stop", "force": True, "timeout": 10})
            delete(target, name)
        except CommandError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)
