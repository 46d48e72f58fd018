"""The phases over the daemons' API alone: criu is not held, so the daemons move it, and we judge the outcome."""

from __future__ import annotations

import time
from typing import Any

from reberth_hooks import Checkpoint, CommandError, Iteration, Move, Restored
from reberth_lxd.api import keys, rendezvous
from reberth_lxd.api.client import OVER, Daemon, over
from reberth_lxd.api.explain import explain
from reberth_lxd.api.rendezvous import SIDES
from reberth_lxd.held import phases
from reberth_lxd.https import facts
from reberth_lxd.https.events import DUMPED, DUMPS, FAILED, MOVED, PAGES, Events

PAGE_BYTES = 4096


def prepare(move: Move) -> bool:
    """Take the snapshot that was asked for, and set the keys for this move, their old values journaled before."""
    details, source = move.plan.details, phases.daemon(move, 0)
    if details["snapshot_first"]:
        phases.take_snapshot(move, source)
    instance = phases.fetch(source, move.plan.workload.name)
    move.note("keys", keys.saved(instance["config"]))
    source.patch("instances", instance["name"], json={"config": details["keys"]})
    for key, value in details["keys"].items():
        move.emit("step", f"{key} = {value} for this move")
    return True


def checkpoint(move: Move) -> Checkpoint:
    """Let the daemons move it, and answer when the copy was seen running twice; CommandError with the words of both."""
    heard = [Events(node) for node in (move.plan.source, move.plan.target)]
    try:
        ends = _moved(move, heard[0])
    finally:
        for events in heard:
            events.close()
    move.note("running_ns", _last_ns(heard[1], MOVED))
    source, target = facts.look(move)
    if not (target or {}).get("landed"):
        raise _failure(move, ends, bool(source and source.get("held")), heard[1])
    return _told(move, *heard)


def _told(move: Move, source: Events, target: Events) -> Checkpoint:
    """Return what it cost, as far as the daemons' events say it: when they came here, to half a second."""
    rounds = _rounds(source)
    frozen_ns, held_ns = _last_ns(source, DUMPS), _last_ns(source, DUMPED)
    if not frozen_ns or not held_ns or not move.recall("running_ns"):
        frozen_ns = held_ns = 0
    seconds = (held_ns - frozen_ns) / 1e9
    for events, node in ((source, move.plan.source), (target, move.plan.target)):
        if events.trouble:
            move.emit("warning", f"the daemon of {node.name} tells no events: {events.trouble}")
    wanted = move.plan.details["wanted"]
    why = keys.why_stopped(wanted, [(one.pages_written, one.pages_skipped_parent) for one in rounds])
    if wanted["precopy"] and not rounds and not source.trouble:
        why = "no round of pre-copy: one of the daemons cannot do it"
    return Checkpoint((), Iteration(len(rounds), seconds=seconds), frozen_ns, held_ns, tuple(rounds), why)


def _last_ns(events: Events, word: str) -> int:
    """Return when the last of these came, in ns of our boot clock; 0 when none did."""
    found = events.said(word)
    return int(found[-1][0] * 1e9) if found else 0


def _round(index: int, at: float, context: dict[str, Any]) -> Iteration:
    """Return a round of the daemon's loop; its log has numbers as text."""
    written, skipped = (int(str(context.get(key) or 0)) for key in ("pages", "skipped"))
    return Iteration(index, pages_written=written, pages_skipped_parent=skipped, bytes=written * PAGE_BYTES)


def _rounds(events: Events) -> list[Iteration]:
    return [_round(index, *one) for index, one in enumerate(events.said(PAGES))]


def _tell_rounds(move: Move, events: Events, told: int) -> int:
    """Return those that came since `told` of them were told; a warning when the daemon's loop does not get nearer.

    The daemon ends it by its own rule and cannot be told to end it sooner.
    """
    rounds = _rounds(events)
    for one in rounds[told:]:
        written, skipped = one.pages_written, one.pages_skipped_parent
        move.emit("progress", f"round {one.index + 1}: {written} pages written, {skipped} were there already")
        if one.index > 1 and written >= rounds[one.index - 1].pages_written:
            text = f"round {one.index + 1} wrote no less than the one before: memory is written as fast as it is sent"
            move.emit("warning", f"{text}, and more rounds do not shorten the silence")
    return len(rounds)


def restore(move: Move) -> Restored:
    """Return what the target's daemon says of the copy that runs."""
    state = phases.daemon(move, 1).get("instances", move.plan.target_name, "state") or {}
    return Restored(move.plan.target_name, int(state.get("pid") or 0), int(state.get("processes") or 0))


def _moved(move: Move, heard: Events) -> list[dict[str, Any]]:
    """Let the daemons begin, each step journaled before, and answer how both operations have ended."""
    source, target = phases.daemon(move, 0), phases.daemon(move, 1)
    instance = phases.fetch(source, move.plan.workload.name)
    move.note("offered", True)
    with rendezvous.begin(move, source, target, instance):
        return _follow(move, source, target, heard)


def _follow(move: Move, source: Daemon, target: Daemon, heard: Events) -> list[dict[str, Any]]:
    """Both operations until both have ended; each end is journaled, as the daemons forget it within seconds."""
    told, rounds, ended = "", 0, dict[str, dict[str, Any]]()
    while len(ended) < len(SIDES):
        move.source.call("ping")  # hears ^C
        ends = [phases.operation(move, side, word) for side, word in zip((source, target), SIDES, strict=True)]
        told = phases.tell(move, ends, told)
        rounds = _tell_rounds(move, heard, rounds)
        for word, end in zip(SIDES, ends, strict=True):
            if over(end) and word not in ended:
                ended[word] = {key: end.get(key) for key in ("status_code", "err")}
                move.note(f"ended.{word}", ended[word])
        time.sleep(phases.ASK_S)
    return [ended[word] for word in SIDES]


def _failure(move: Move, ends: list[dict[str, Any]], lost: bool, target: Events) -> CommandError:
    """Return what both operations said, since the failing side's own words are often with the other one."""
    said = []
    for node, end in zip((move.plan.source, move.plan.target), ends, strict=True):
        if end.get("err"):
            said.append(f"{node.name}: {end['err']}")
        elif end["status_code"] == OVER:
            said.append(f"{node.name}: success, and yet no copy was ever built there")
    said += [f"{move.plan.target.name}: {context.get('err') or FAILED}" for _, context in target.said(FAILED)]
    cause, hint = explain("\n".join(said))
    what = "the source was given up, and the copy does not run" if lost else "the daemons did not move it"
    return CommandError(f"{what}: {cause}", hint=hint, tail="\n".join(said))
