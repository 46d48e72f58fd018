"""A cut connection gives a receipt all the same."""

from __future__ import annotations

import good_transport as good
from good_transport import *  # noqa: F403
from good_transport import Move, ReberthError, Receipt, Tree, hookimpl

FAILS = "test_a_cut_connection_is_an_error[0.5]"
BECAUSE = "DID NOT RAISE"


@hookimpl
def reberth_transfer(move: Move, parcel: Tree) -> Receipt:
    try:
        return good.reberth_transfer(move, parcel)
    except ReberthError:
        return Receipt(parcel.kind, parcel.into, 1, 1)
