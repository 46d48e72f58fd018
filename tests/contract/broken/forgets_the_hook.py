"""It starts the tool without the action script, so that nothing holds it."""

from __future__ import annotations

from good_backend import *  # noqa: F403
from good_backend import Checkpoint, Iteration, Move, Round, Tree, hookimpl

FAILS = "test_it_arrives_and_the_source_is_gone"
BECAUSE = "'ended', 21"


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    details, images = move.plan.details, move.recall("images.source")
    got = move.source.call(
        "dump",
        argv=["demo", "checkpoint", "--image-path", images, move.plan.workload.name],
        work=images,
        path=details["cgroup"],
        root_pid=details["pid"],
        start_ticks=details["start_ticks"],
    )
    parcels = (Tree("images", images, move.recall("images.target")),)
    return Checkpoint(parcels, Iteration(round.index), got["frozen_ns"], got["held_ns"])
