"""What changed after the first copy stays behind."""

from __future__ import annotations

import good_transport as good
from good_transport import *  # noqa: F403
from good_transport import Move, Receipt, Tree, hookimpl

FAILS = "test_what_changed_arrives_too"
BECAUSE = "/gone|/text"


@hookimpl
def reberth_transfer(move: Move, parcel: Tree) -> Receipt:
    return (
        Receipt(parcel.kind, parcel.into, 0, 0)
        if parcel.kind == "filesystem-delta"
        else good.reberth_transfer(move, parcel)
    )
