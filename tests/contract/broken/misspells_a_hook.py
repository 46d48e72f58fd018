"""One letter is missing: the hook would never be called."""

from __future__ import annotations

import good_backend as good
from good_backend import *  # noqa: F403
from good_backend import Checkpoint, Move, Round, hookimpl

FAILS = "test_the_host_accepts_it"
BECAUSE = "reberth_chekpoint"


@hookimpl
def reberth_chekpoint(move: Move, round: Round) -> Checkpoint:
    return good.reberth_checkpoint(move, round)
