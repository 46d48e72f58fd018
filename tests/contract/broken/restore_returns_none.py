"""It forgets the answer."""

from __future__ import annotations

import good_backend as good
from good_backend import *  # noqa: F403
from good_backend import Move, Receipt, Restored, hookimpl

FAILS = "test_it_arrives_and_the_source_is_gone"
BECAUSE = "gave None, not Restored"


@hookimpl
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    good.reberth_restore(move, receipts)
