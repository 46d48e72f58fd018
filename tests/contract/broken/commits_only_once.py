"""Its commit fails where an earlier one has done part of the work."""

from __future__ import annotations

from good_backend import *  # noqa: F403
from good_backend import Move, hookimpl

FAILS = "test_a_failing_commit_leaves_the_copy[after]"
BECAUSE = "mkdir on node node1 ended with 1"


@hookimpl
def reberth_describe():
    from good_backend import declaration

    return declaration("mkdir")


@hookimpl
def reberth_commit(move: Move) -> bool:
    move.source.run(["mkdir", "/run/demo/moved"])
    move.source.call("mark_left", path=move.plan.details["bundle"])
    return True
