"""Data through the controller, where the lab's own `direct` is off or fails; straight it goes in all other tests.

Live because one node's ssh must reach the other, or fail to.
"""

from __future__ import annotations

import pytest
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth_lab.node import Node


@pytest.mark.parametrize(("allowed", "warned"), [("false", False), ('"192.0.2.77"', True)], ids=["off", "in vain"])
def test_direct(
    allowed: str, warned: bool, works: Stand, watch: Watch, reberth: Command, settings, node1: Node, node2: Node
) -> None:
    env = settings(lambda text: text.replace("direct = true", f"direct = {allowed}"))
    handle = works.container("memory", "--mib", "16")
    done = reberth.move(word_of(node1, handle), "node2:", env=env)
    assert done.code == 0, str(done)
    assert ("data goes through this machine" in done.error) == warned, str(done)
    healthy(node2, handle)
    assert gone(node1, handle)
    works.stop(handle)
    watch.check()
