"""Its rollback removes the container that should run on."""

from __future__ import annotations

from good_backend import *  # noqa: F403
from good_backend import Move, hookimpl

FAILS = "test_rolling_back_twice_is_harmless"
BECAUSE = "it must run there"


@hookimpl
def reberth_rollback(move: Move) -> bool:
    move.source.run(["demo", "delete", "--force", move.plan.workload.name])
    return True
