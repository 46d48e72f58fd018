"""The last byte of one file does not arrive."""

from __future__ import annotations

import good_transport as good
from good_transport import *  # noqa: F403
from good_transport import Move, Receipt, Tree, hookimpl

FAILS = "test_a_tree_arrives_whole"
BECAUSE = "/text"


@hookimpl
def reberth_transfer(move: Move, parcel: Tree) -> Receipt:
    got = good.reberth_transfer(move, parcel)
    move.target.run(["truncate", "-s", "-1", "--", f"{parcel.into}/text"])
    return got
