"""It restores without holding: the copy runs before anybody has permitted it."""

from __future__ import annotations

from good_backend import *  # noqa: F403
from good_backend import Move, Receipt, Restored, hookimpl

FAILS = "test_nobody_runs_between_freeze_and_permit"
BECAUSE = "after restore it runs on"


@hookimpl
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    name, images, bundle = move.plan.target_name, move.recall("images.target"), move.plan.details["bundle"]
    move.target.call("undo", on="abort", do="run", argv=["demo", "delete", "--force", name])
    move.target.run(["demo", "restore", "--bundle", bundle, "--image-path", images, name])
    return Restored(name, move.plan.details["pid"])
