"""Near-live: files are sent while it runs, it is stopped, what has changed is sent, and it is started on the target.

No criu and no memory. The container must be known stopped before the copy is started: never two that run. What became
of a run is told from both daemons and the journal (`nearfacts`).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

from reberth_hooks import Checkpoint, CommandError, Iteration, Move, ReberthError, Receipt, Restored, Tree
from reberth_lxd.api import keys, rendezvous
from reberth_lxd.api.client import OVER, RUNNING, STOPPED, Daemon, over
from reberth_lxd.api.explain import explain
from reberth_lxd.api.rendezvous import SIDES
from reberth_lxd.held import backdate, phases
from reberth_lxd.https.connect import over_api

START_S, FORCE_S, SLACK_S = 30, 30, 20.0
AMOUNT = re.compile(r"([0-9.]+)([kMGT]?)B")
STEPS = " kMGT"


def prepare(move: Move) -> bool:
    """Journal what must be put back; nothing is changed yet."""
    instance = phases.fetch(phases.daemon(move, 0), move.plan.workload.name)
    move.note("keys", {keys.AUTOSTART: str(instance["config"].get(keys.AUTOSTART, ""))})
    return True


def sync(move: Move) -> list[Tree]:
    """Send the root filesystem while it runs, where the copy can be looked into afterwards (`dated`)."""
    if over_api(move.plan.source):
        move.emit("step", "no first sync: over the API alone nothing can make up for what the daemons' rsync overlooks")
        return []
    return [Tree("filesystem", move.plan.workload.name, move.plan.target_name)]


def transfer(move: Move, parcel: Tree) -> Receipt:
    """Let the daemons carry the files from source to target; what it has already is brought up to date."""
    begun, name = time.monotonic(), move.plan.workload.name
    wall_s = backdate.wall_s(move) if parcel.kind == "filesystem" else 0.0
    sent = _pull(move, refresh=bool(move.recall("copied")))
    move.note("copied", True)
    if parcel.kind == "filesystem" and not backdate.date_back(move, target := phases.daemon(move, 1), wall_s):
        move.emit("warning", "the copy's files cannot be looked at: all is sent again when it is stopped")
        phases.delete(target, name)
        move.note("copied", False)
    return Receipt(parcel.kind, parcel.into, sent, 1, time.monotonic() - begun)


def _pull(move: Move, *, refresh: bool) -> int:
    """One sync by the daemons; returns the bytes that they said. Each step is journaled before it is taken."""
    name = move.plan.workload.name
    source, target = phases.daemon(move, 0), phases.daemon(move, 1)
    instance = phases.fetch(source, name)
    try:
        with rendezvous.begin(move, source, target, instance, files={"refresh": refresh}):
            return _follow(move, source, target)
    except CommandError as error:
        cause, hint = explain(error.tail or error.message)
        raise CommandError(f"the daemons did not copy it: {cause}", hint=hint, tail=error.tail) from error


def _follow(move: Move, source: Daemon, target: Daemon) -> int:
    """Wait until both operations are over; CommandError with the words of both."""
    told, ended = "", dict[str, dict[str, Any]]()
    while True:
        move.source.call("ping")  # hears ^C
        ends = [phases.operation(move, side, word) for side, word in zip((source, target), SIDES, strict=True)]
        told = phases.tell(move, ends, told)
        ended |= {word: end for word, end in zip(SIDES, ends, strict=True) if over(end) and word not in ended}
        if len(ended) == len(SIDES):
            break  # it may stand stopped
        time.sleep(phases.ASK_S)
    said = [
        f"{side.node.name}: {ended[word]['err']}"
        for word, side in zip(SIDES, (source, target), strict=True)
        if ended[word]["status_code"] > OVER
    ]
    if said:
        raise CommandError("the copy failed", tail="\n".join(said))
    return amount(told)


def amount(progress: str) -> int:
    """Bytes of a daemon's progress, as "c1: 1.35MB (1.31MB/s)"; 0 when it said none."""
    found = AMOUNT.search(progress.rpartition(": ")[2])
    return int(float(found[1]) * 1000 ** STEPS.index(found[2] or " ")) if found else 0


def checkpoint(move: Move) -> Checkpoint:
    """Shut it down, by force only where that was asked for; CommandError when it does not, and it goes on."""
    name, source = move.plan.workload.name, phases.daemon(move, 0)
    move.note("stopping", True)
    begun_ns = stamp_ns(move, 0)
    _stop(move, source)
    if phases.fetch(source, name)["status_code"] != STOPPED:
        raise CommandError(f"the daemon of {source.node.name} does not say that {name} is stopped")
    ended_ns = stamp_ns(move, 0)
    move.note("stopped", True)
    # Not before: LXD 5.0.2 stays busy with a shutdown that failed, and changes nothing of the container until it ends.
    source.patch("instances", name, json={"config": move.plan.details["keys"]})
    seconds = (ended_ns - begun_ns) / 1e9
    files = Tree("filesystem-delta", name, move.plan.target_name)
    return Checkpoint((files,), Iteration(0, seconds=seconds), begun_ns, ended_ns, (), "it was stopped")


def _stop(move: Move, source: Daemon) -> None:
    name, limit_s = move.plan.workload.name, int(move.plan.details["shutdown_s"])
    move.emit("step", f"{name} is asked to shut down, within {limit_s} s")
    try:
        words = {"action": "stop", "timeout": limit_s, "force": False}
        source.put("instances", name, "state", json=words, limit_s=limit_s + SLACK_S)
        return
    except CommandError as error:
        if not move.plan.details["force_stop"]:
            text = f"{name} did not shut down within {limit_s} s, and goes on on {source.node.name}"
            hint = "--force-stop ends it; boot.host_shutdown_timeout of the container gives it more time"
            raise CommandError(text, hint=hint, tail=error.message) from error
    move.emit("warning", f"{name} does not shut down: it is ended by force, as asked")
    source.put("instances", name, "state", json={"action": "stop", "timeout": FORCE_S, "force": True})


def stamp_ns(move: Move, side: int) -> int:
    """Now, by the clock of that end's node; of ours where it has no helper."""
    return int((move.source, move.target)[side].call("ping")["boot_ns"]) or time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def restore(move: Move) -> Restored:
    """Start the copy, and look at it twice; from the journaled `landed` on the target has it for good."""
    name, target = move.plan.target_name, phases.daemon(move, 1)
    if phases.fetch(phases.daemon(move, 0), name)["status_code"] != STOPPED:
        raise CommandError(f"{name} runs again on {move.plan.source.name}: the copy is not started")
    with contextlib.suppress(CommandError):  # it is no copy: no template is to be filled in anew
        target.patch("instances", name, json={"config": {"volatile.apply_template": ""}})
    move.note("starting", True)
    try:
        target.put("instances", name, "state", json={"action": "start", "timeout": START_S})
    except CommandError as error:
        if _rests(target, name):
            move.note("start-failed", error.message)
        raise CommandError(f"{name} could not be started there: {error.message}", tail=error.tail) from error
    move.note("running_ns", stamp_ns(move, 1))
    for wait_s in (0.0, phases.TWICE_S):
        time.sleep(wait_s)
        if not phases.runs(target, name):
            if _rests(target, name):
                move.note("start-failed", "it ended at once")
            hint = target.spoken(f"see on {target.node.name}: lxc info {name} --show-log")
            raise CommandError(f"{name} was started on {target.node.name}, and does not run there", hint=hint)
    move.note("landed", True)
    state = target.get("instances", name, "state") or {}
    return Restored(name, int(state.get("pid") or 0), int(state.get("processes") or 0))


def _rests(side: Daemon, name: str) -> bool:
    """Tell whether it is known to be stopped there."""
    with contextlib.suppress(ReberthError):
        return bool((side.get("instances", name) or {"status_code": STOPPED})["status_code"] == STOPPED)
    return False


def commit(move: Move) -> bool:
    """Remove the old one, or keep it stopped; never while the new one does not run."""
    name = move.plan.workload.name
    source, target = phases.daemon(move, 0), phases.daemon(move, 1)
    if not phases.runs(target, name):
        text = f"{name} does not run on {target.node.name} now: the old one is not removed"
        raise CommandError(text, hint=f"start it there; then: reberth recover {move.id}")
    old = source.get("instances", name)
    if old is not None and old["status_code"] != STOPPED:
        text = f"the daemon of {source.node.name} says that the old {name} is {old['status']}: it is not removed"
        raise CommandError(text, hint=f"reberth recover {move.id} tries again")
    target.patch("instances", name, json={"config": move.recall("keys")})
    if old is not None and not move.plan.details["keep_source"]:
        phases.delete(source, name)
    return True  # one that is kept keeps boot.autostart false: it must not start with its daemon beside the new one


def rollback(move: Move) -> bool:
    """End what goes on between the daemons, remove the copy, put the key back; the source runs already."""
    if move.recall("keys") is None or move.recall("tidied"):
        return True
    return phases.tidied(move, _put_back)


def _put_back(move: Move) -> None:
    source, name = phases.daemon(move, 0), move.plan.workload.name
    if move.recall("stopped"):
        when_free(lambda: source.patch("instances", name, json={"config": move.recall("keys")}))
    end_operations(move)
    if move.recall("created"):
        _remove_copy(move, source, phases.daemon(move, 1))


def when_free(act: Callable[[], None]) -> None:
    """Do it, as soon as the daemon has ended what it is busy with: CommandError when that takes too long."""
    deadline = time.monotonic() + phases.END_S
    while True:
        try:
            return act()
        except CommandError as error:
            if "busy" not in error.message.lower() or time.monotonic() > deadline:
                raise
        time.sleep(1.0)


def end_operations(move: Move) -> None:
    """The source's offer is taken back, or a large copy would go on for hours; the target's part ends with it."""
    for index, word in enumerate(SIDES):
        url = str(move.recall(f"operation.{word}") or "")
        if not url or over((side := phases.daemon(move, index)).operation(url)):
            continue
        with contextlib.suppress(CommandError):  # the target's cannot be cancelled, and ends with the source's
            side.delete("operations", url.rpartition("/")[2])
        deadline = time.monotonic() + phases.END_S
        while not over(side.operation(url)) and time.monotonic() < deadline:
            time.sleep(phases.ASK_S)


def used(copy: dict[str, Any]) -> bool:
    """Tell whether the daemon has ever started it; the one proof that nothing was written there."""
    return not str(copy.get("last_used_at") or "1970").startswith(("1970", "0001"))


def _remove_copy(move: Move, source: Daemon, target: Daemon) -> None:
    """Remove the target's copy, while the source runs; one that may hold what nobody else has is left."""
    name = move.plan.target_name
    left = target.get("instances", name)
    if left is None:
        return
    if not phases.runs(source, name):
        raise CommandError(f"the daemon of {source.node.name} does not say that {name} runs: nothing is removed")
    if left["status_code"] == RUNNING:
        text = f"{name} runs on {target.node.name} too: it is not removed"
        raise CommandError(text, hint=target.spoken(f"lxc info {name}"))
    if used(left) and not (move.recall("start-failed") or move.recall("given-up")):
        text = f"{name} may have run on {target.node.name}: it is not removed"
        raise CommandError(text, hint=target.spoken(f"lxc delete {name}"))
    phases.delete(target, name)
