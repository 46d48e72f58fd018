"""It does not know that its tool leaves an empty cgroup when it fails."""

from __future__ import annotations

from good_backend import *  # noqa: F403
from good_backend import CONFIG, Move, Receipt, Restored, hookimpl

FAILS = "test_a_failing_tool_leaves_the_source[restore-node2]"
BECAUSE = "/sys/fs/cgroup/web"


@hookimpl
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    name, images = move.plan.target_name, move.recall("images.target")
    move.target.call("undo", on="abort", do="run", argv=["demo", "delete", "--force", name])
    argv = ["demo", "restore", "--bundle", move.plan.details["bundle"], "--image-path", images, name]
    got = move.target.call("restore", argv=argv, work=images, own_cgroup=False, config=CONFIG, timeout_s=None)
    return Restored(name, got["pid"], got["tasks"], got["held_ns"])
