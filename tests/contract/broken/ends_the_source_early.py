"""It lets the tool end the source as soon as the images are written, before anything has arrived."""

from __future__ import annotations

from good_backend import *  # noqa: F403
from good_backend import Checkpoint, Iteration, Move, Round, Tree, hookimpl

FAILS = "test_a_failure_in_any_phase_leaves_the_source[final transfer-before]"
BECAUSE = "rolled-back"


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    images, bundle = move.recall("images.source"), move.plan.details["bundle"]
    move.source.run(["demo", "checkpoint", "--image-path", images, move.plan.workload.name])
    parcels = (Tree("images", images, move.recall("images.target")), Tree("filesystem-delta", bundle, bundle))
    return Checkpoint(parcels, Iteration(round.index), 1, 1)
