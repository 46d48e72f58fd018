"""It runs a program that an administrator could not know of."""

from __future__ import annotations

import good_backend as good
from good_backend import *  # noqa: F403
from good_backend import Move, hookimpl

FAILS = "test_only_declared_tools_are_run"
BECAUSE = "curl"


@hookimpl
def reberth_prepare(move: Move) -> bool:
    move.target.run(["curl", "https://example.com"])
    return good.reberth_prepare(move)
