"""It makes a directory on the target and does not say so before."""

from __future__ import annotations

import good_backend as good
from good_backend import *  # noqa: F403
from good_backend import Move, declaration, hookimpl

FAILS = "test_a_failure_in_any_phase_leaves_the_source[prepare-after]"
BECAUSE = "/srv/scratch"


@hookimpl
def reberth_describe():
    return declaration("mkdir")


@hookimpl
def reberth_prepare(move: Move) -> bool:
    move.target.run(["mkdir", "/srv/scratch"])
    return good.reberth_prepare(move)
