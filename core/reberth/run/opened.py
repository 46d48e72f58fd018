"""What the controller's journal knows of both ends when they cannot tell: opened, told its end, seen in which cgroup.

A node that was asked to open a run and knows nothing of it has lost its journal; that is no proof of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reberth.run.decision import Step
from reberth.run.journal import Journal
from reberth_hooks import Exit, Shell

SIDES = ("source", "target")
CLOSED = ("moved", "rolled-back", "ended", "refused", "lost")
# The words about a node that never comes back, and the step that is taken on each.
GONE_WORDS = {"target_is_gone": Step.RESUME_ON_WORD, "source_is_dead": Step.PERMIT_ON_WORD}


def was_opened(journal: Journal, side: int) -> bool:
    """Return whether this node had opened the run: what the controller did after that is in its journal.

    Only what the move itself has written counts: `recover` opens nothing, and writes phases of its own.
    """
    events = [record["event"] for record in journal.records]
    events = events[: events.index("recover")] if "recover" in events else events
    opening = [number for number, event in enumerate(events) if event == "opening"]
    after = "opening" if side == 0 and len(opening) > 1 else "phase"
    return bool(opening) and after in events[opening[0] + 1 :]


def _closes(record: Mapping[str, Any]) -> bool:
    """Tell whether this record is an end that was written on both nodes.

    A move with something left to do is none yet.
    """
    return record["event"] == "end" and record["outcome"] in CLOSED and record["exit_code"] != int(Exit.CLEANUP_PENDING)


def told(journal: Journal, side: int) -> str:
    """Return the outcome that was written into this node's own journal, empty when none was."""
    for record in reversed(journal.records):
        if _closes(record) and SIDES[side] not in record.get("untold", ()):
            return str(record["outcome"])
    return ""


def told_facts(journal: Journal, side: int) -> dict[str, Any] | None:
    """Return the facts of an end that was told its end, for when it cannot be asked or has put its journal away."""
    outcome = told(journal, side)
    if not outcome:
        return None
    moved = outcome == "moved"
    if side == 0:
        vote = "READY" if moved else "RESUME"
        gone = outcome == "ended"
        facts = {"vote": vote, "released": moved, "resumed": not moved, "gone": gone, "tasks": int(not moved)}
    elif moved:
        facts = {"verdict": "PERMIT", "landed": True, "running_ns": 1, "cleaned": True, "filled": True, "tasks": 1}
    else:
        facts = {"verdict": "ABORT", "taken_back": True}
    return {"role": SIDES[side], "ended": outcome, **facts}


def may_be_left(journal: Journal, side: int) -> bool:
    """Tell whether a node that was not told the end may still have something of the run: a source, or a held copy."""
    restored = any(record["event"] == "phase" and record["name"] == "restore" for record in journal.records)
    return was_opened(journal, side) and not told(journal, side) and (side == 0 or restored)


def untold(journal: Journal) -> tuple[str, ...]:
    """Return which ends of a run that is over still have to be told."""
    return tuple((journal.last("end") or {}).get("untold", ()))


def words_given(journal: Journal) -> dict[str, bool]:
    """Return the words about a node that never comes back that were acted on: a `recover` that was killed goes on
    with them.

    What was typed and changed nothing is not remembered: the node may have been back since.
    """
    return {name: any(map(_on(name), _after_word(journal, name))) for name in GONE_WORDS}


def _after_word(journal: Journal, name: str) -> list[dict[str, Any]]:
    given = [n for n, record in enumerate(journal.records) if record["event"] == "word" and record.get(name)]
    return journal.records[given[0] + 1 :] if given else []


def _on(name: str) -> Callable[[Mapping[str, Any]], bool]:
    """Tell whether a record says that this word was acted on: its step was taken, or the run was ended by it."""
    return lambda record: (
        (record["event"] == "step" and record["step"] == GONE_WORDS[name])
        or (record["event"] == "end" and record["outcome"] in CLOSED)
    )


def ready_seen(journal: Journal) -> bool:
    """Tell whether a step was taken on the source's vote READY, and the source not let run since on a word."""
    steps = [record["step"] for record in journal.records if record["event"] == "step"]
    woken = (Step.RESUME_ON_WORD, Step.THAW_LOST_SOURCE, Step.RESUME_ABORTED)
    return Step.PERMIT in steps and not any(step in steps for step in woken)


def seen(sides: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return what a record of a step keeps beside it: the cgroups in which the tasks are."""
    found = {SIDES[n]: facts["cgroup"] for n, facts in enumerate(sides) if facts and facts.get("cgroup")}
    return {"cgroups": found} if found else {}


def cgroups(journal: Journal, side: int) -> list[str]:
    """Return every cgroup of this end that was seen."""
    found = (record.get("cgroups", {}).get(SIDES[side]) for record in journal.records)
    return list(dict.fromkeys(path for path in found if path))


def lost_facts(journal: Journal, side: int, end: Shell) -> dict[str, Any]:
    """Return what is really there on a node that has lost its journal of the run.

    Raise ReberthError if it cannot be asked.
    """
    found = dict(end.call("remains", run_id=journal.dir.name, cgroups=cgroups(journal, side), timeout_s=15.0))
    steps = [record["step"] for record in journal.records if record["event"] == "step"]
    lazy = side == 1 and steps[-1:] == [Step.FILL]
    return {"role": SIDES[side], "lost": True, "lazy": lazy, **found, "there": _there(end.node.name, side, found)}


def settle_lost(journal: Journal, side: int, end: Shell, how: str) -> None:
    """Have what is there killed or thawed."""
    end.call("settle_remains", run_id=journal.dir.name, cgroups=cgroups(journal, side), how=how, timeout_s=60.0)


def _there(name: str, side: int, found: Mapping[str, Any]) -> str:
    text = f"{name} knows nothing of a run that was opened there"
    if not found["remains"]:
        return f"{text}, and no task of it was found there"
    pids = ", ".join(map(str, found["pids"]))
    where = f"cgroup {found['cgroup']} ({found['tasks']} tasks; pids {pids})"
    what = ("the source", "a copy")[side]
    does = {"running": f"{what} runs", "frozen": f"{what} is frozen", "held": f"{what} is held by a criu"}
    return f"{text}: {does[str(found['remains'])]} on {name} in {where}"
