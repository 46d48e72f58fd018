"""How a backend that drives CRIU gives a dump's pages to a transport for memory, where the plan has one."""

from __future__ import annotations

from typing import Any

from reberth_hooks.criu.modes import criu_version, header_bytes, link_parent
from reberth_hooks.errors import ReberthError
from reberth_hooks.protocols import Move
from reberth_hooks.types import Channel, Checkpoint, Iteration, Round, Tree

# The source gives up a dump of which no byte moves after 20 s, and says why; this is for when it cannot.
STALL_S = 45.0


def is_paged(move: Move) -> bool:
    """Tell whether this run's pages go through a page server."""
    return Channel.MEMORY in move.plan.routes


def place_of(move: Move, round: Round) -> str:
    """Return the directory on the target for a round's images, before that round has begun."""
    place = str(move.recall("images.target"))
    if not round.final:
        return f"{place}/round-{round.index}"
    return place if not round.index or place.endswith("/final") else f"{place}/final"


def words(move: Move, *how: str) -> list[str]:
    """Return what a dump's argument list needs for it: `how`, where pages go through a page server."""
    return list(how) if is_paged(move) else []


def dump(move: Move, round: Round, op: str, way: str, **args: Any) -> dict[str, Any]:
    """Run the operation `op` (`dump`, `pre_dump`) of the source; both ends of a flow of pages end or fail together.

    `way` is how the source's criu reaches the helper (docs/helper.md). Raises what `Move.gather` raises, so that a
    target whose disk is full ends the dump at once.
    """
    if not is_paged(move) or round.lazy:
        answer: dict[str, Any] = move.source.call(op, timeout_s=None, **args)
        return answer

    def told(**data: int) -> None:
        move.emit("progress", "pages", bytes=data.get("bytes", 0))

    version = criu_version(move.plan.facts, "source", move.plan.workload.backend)
    receiving = move.target.begin("pages_recv", into=place_of(move, round), on_progress=told)
    dumping = move.source.begin(op, through=way, header_bytes=header_bytes(version), **args)
    got, sent = move.gather(receiving, dumping, stall_s=STALL_S)
    same = ("pages", "holes", "bytes", "digest")
    if [got[name] for name in same] != [sent["sent"][name] for name in same]:
        raise ReberthError("the pages on the target are not those that left the source", hint="nothing was restored")
    found: dict[str, Any] = sent
    return found


def pre_round(move: Move, round: Round, argv: list[str], way: str) -> Checkpoint:
    """Run one round before the final one, and say what must travel; `@images@` in `argv` is the round's directory."""
    link_parent(move, round.index - 1)
    details = move.plan.details
    here, there = (f"{move.recall(f'images.{side}')}/round-{round.index}" for side in ("source", "target"))
    got = dump(
        move,
        round,
        "pre_dump",
        way,
        argv=[word.replace("@images@", here) for word in argv],
        work=here,
        root_pid=details["pid"],
        start_ticks=details["start_ticks"],
    )
    move.target.call("make_dirs", path=there, mode=0o700)
    counters = ("pages_scanned", "pages_written", "pages_skipped_parent", "frozen_us")
    iteration = Iteration(
        round.index, bytes=got["bytes"], seconds=got["seconds"], **{name: got.get(name, 0) for name in counters}
    )
    if round.index and not iteration.pages_skipped_parent:
        move.emit("warning", f"round {round.index + 1} found no page of the round before: the rounds gain nothing")
    return Checkpoint((Tree("images", here, there),), iteration)


def final_round(move: Move, round: Round, got: dict[str, Any]) -> Iteration:
    """Keep what the final dump answered, for the restore; what the round came to."""
    # one record: each is flushed to disk, and the workload stands still
    move.note("dump", {**got, "rounds": round.index, "lazy": round.lazy})
    seconds = (got["held_ns"] - got["frozen_ns"]) / 1e9
    return Iteration(
        round.index,
        pages_lazy=got.get("lazy_pages", 0),
        bytes=got["pages_bytes"],
        seconds=seconds,
        frozen_us=int(seconds * 1e6),
    )
