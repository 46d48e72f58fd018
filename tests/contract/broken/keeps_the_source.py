"""It leaves the source running: two copies, of which each believes that it is the one."""

from __future__ import annotations

from good_backend import *  # noqa: F403
from good_backend import Checkpoint, Iteration, Move, Round, Tree, hookimpl

FAILS = "test_it_arrives_and_the_source_is_gone"
BECAUSE = "two copies ran at the same time|nowhere else"


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    images, bundle = move.recall("images.source"), move.plan.details["bundle"]
    move.source.run(["demo", "checkpoint", "--leave-running", "--image-path", images, move.plan.workload.name])
    parcels = (Tree("images", images, move.recall("images.target")), Tree("filesystem-delta", bundle, bundle))
    return Checkpoint(parcels, Iteration(round.index), 1, 1)
