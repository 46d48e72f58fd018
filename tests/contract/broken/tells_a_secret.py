"""It notes a secret in the journal."""

from __future__ import annotations

import good_backend as good
from good_backend import *  # noqa: F403
from good_backend import Checkpoint, Move, Round, hookimpl

FAILS = "test_secrets_stay_secret"
BECAUSE = "sesame"
SECRETS = ("sesame",)


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    move.note("endpoint", {"host": "192.0.2.1", "key": SECRETS[0]})
    return good.reberth_checkpoint(move, round)
