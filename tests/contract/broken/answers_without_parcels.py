"""It dumps, and sends nothing."""

from __future__ import annotations

import good_backend as good
from good_backend import *  # noqa: F403
from good_backend import Checkpoint, Move, Round, hookimpl

FAILS = "test_answers_are_what_the_phases_promise"
BECAUSE = "what does the target restore from"


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    got = good.reberth_checkpoint(move, round)
    return Checkpoint((), got.iteration, got.frozen_ns, got.held_ns)
