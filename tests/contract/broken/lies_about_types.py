"""Its signature is not that of the specification."""

from __future__ import annotations

from good_backend import *  # noqa: F403
from good_backend import Shell, hookimpl

FAILS = "test_signatures_are_those_of_the_specification"
BECAUSE = "reberth_commit"


@hookimpl
def reberth_commit(move: Shell) -> bool:
    return True
