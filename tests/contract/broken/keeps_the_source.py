"""It leaves the source running and says that it is frozen: were the copy let go, there would be two."""

from __future__ import annotations

from good_backend import *  # noqa: F403
from good_backend import Checkpoint, Iteration, Move, Round, Tree, hookimpl

FAILS = "test_it_arrives_and_the_source_is_gone"
BECAUSE = "rolled-back"


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    images, bundle = move.recall("images.source"), move.plan.details["bundle"]
    move.source.run(["demo", "checkpoint", "--leave-running", "--image-path", images, move.plan.workload.name])
    parcels = (Tree("images", images, move.recall("images.target")), Tree("filesystem-delta", bundle, bundle))
    return Checkpoint(parcels, Iteration(round.index), 1, 1)
