"""The phases over the daemons' API alone: nobody holds criu, so the daemons move it, and we judge what became of it."""

from __future__ import annotations

import time
from typing import Any

from reberth_hooks import Checkpoint, CommandError, Iteration, Move, Restored
from reberth_lxd import keys, ledger, phases
from reberth_lxd.client import OVER, Daemon, over
from reberth_lxd.explain import explain
from reberth_lxd.request import for_source, for_target

SIDES = ("source", "target")


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
    started = time.monotonic()
    ends = _follow(move, *_begin(move))
    source, target = ledger.look(move)
    if not (target or {}).get("landed"):
        raise _failure(move, ends, bool(source and source.get("held")))
    return Checkpoint((), Iteration(0, seconds=time.monotonic() - started))


def restore(move: Move) -> Restored:
    """What the target's daemon says of the copy that runs."""
    state = phases.daemon(move, 1).get("instances", move.plan.target_name, "state") or {}
    return Restored(move.plan.target_name, int(state.get("pid") or 0), int(state.get("processes") or 0))


def _begin(move: Move) -> tuple[Daemon, Daemon]:
    """Offer it at the source, and let the target pull it; each step is journaled before."""
    details, name = move.plan.details, move.plan.workload.name
    source, target = phases.daemon(move, 0), phases.daemon(move, 1)
    instance = phases.fetch(source, name)
    move.note("offered", True)
    offered = source.post("instances", name, json=for_source(name))
    move.note("operation.source", offered["url"])
    url = details["url"].rstrip("/") + offered["url"]
    certificate = str(source.environment["certificate"])
    request = for_target(instance, url, certificate, offered["secrets"], move.recall("keys"))
    move.note("created", True)  # from here on an instance of this name on the target is ours to remove
    try:
        taken = target.post("instances", json=request)
    except CommandError as error:
        cause, hint = explain(error.message)
        raise CommandError(f"the target's daemon does not take it: {cause}", hint=hint, tail=error.message) from error
    move.note("operation.target", taken["url"])
    return source, target


def _follow(move: Move, source: Daemon, target: Daemon) -> list[dict[str, Any]]:
    """Both operations until both have ended; each end is journaled, as the daemons forget it within seconds."""
    told, ended = "", dict[str, dict[str, Any]]()
    while len(ended) < len(SIDES):
        move.source.call("ping")  # hears ^C
        ends = [phases.operation(move, side, word) for side, word in zip((source, target), SIDES, strict=True)]
        told = phases.tell(move, ends, told)
        for word, end in zip(SIDES, ends, strict=True):
            if over(end) and word not in ended:
                ended[word] = {key: end.get(key) for key in ("status_code", "err")}
                move.note(f"ended.{word}", ended[word])
        time.sleep(phases.ASK_S)
    return [ended[word] for word in SIDES]


def _failure(move: Move, ends: list[dict[str, Any]], lost: bool) -> CommandError:
    """What both operations said, since the failing side's own words are often with the other one."""
    said = []
    for node, end in zip((move.plan.source, move.plan.target), ends, strict=True):
        if end.get("err"):
            said.append(f"{node.name}: {end['err']}")
        elif end["status_code"] == OVER:
            said.append(f"{node.name}: success, and yet no copy was ever built there")
    cause, hint = explain("\n".join(said))
    what = "the source was given up, and the copy does not run" if lost else "the daemons did not move it"
    return CommandError(f"{what}: {cause}", hint=hint, tail="\n".join(said))
