"""The same end for every failure: exit 20, the source runs on, whole, nothing is left, and the next move works."""

from __future__ import annotations

from workloads.driver import Handle

from livekit.command import Command, Done
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from reberth_lab.node import Node


def check_rolled_back(done: Done, code: int = 20) -> None:
    """The report says that the source has it again."""
    assert done.code == code, str(done)
    assert (done.report["outcome"], done.report["owner"]) == ("rolled-back", "source"), str(done)
    assert done.report["error"]["message"], str(done)


def check_source(handle: Handle, node: Node, other: Node, running: Watch, patience_s: float = 20.0) -> None:
    """The workload runs where it was, it is well, and both nodes are as they were while it ran before."""
    healthy(node, handle)
    assert gone(other, handle)
    running.check(patience_s=patience_s)


def move_at_last(handle: Handle, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node) -> None:
    """A following move of the same workload succeeds and leaves nothing."""
    done = reberth.move(word_of(node1, handle), f"{node2.name}:")
    assert done.code == 0, str(done)
    healthy(node2, handle)
    assert gone(node1, handle)
    works.stop(handle)
    watch.check()
