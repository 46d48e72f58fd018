"""It notes a secret in the journal."""

from __future__ import annotations

import good_backend as good
from good_backend import *  # noqa: F403
from good_backend import Checkpoint, Move, Round, hookimpl

from reberth_hooks import Endpoint

FAILS = "test_secrets_stay_secret"
BECAUSE = "sesame"


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    got = good.reberth_checkpoint(move, round)
    place = Endpoint("192.0.2.1", 9000, secret={"key": "sesame"})
    move.note("endpoint", {"host": place.host, "key": place.secret["key"]})
    return Checkpoint((*got.parcels, place), got.iteration, got.frozen_ns, got.held_ns)
