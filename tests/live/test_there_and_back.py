"""There and back again, many times in a row: each time nothing is left on the node that was left.

Live because what a move leaves on a kernel shows when it is repeated.
"""

from __future__ import annotations

import os

import pytest
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, healthy, word_of

from reberth_lab.node import Node

TIMES = int(os.environ.get("REBERTH_TURNS", "3"))  # `make soak`: 20


@pytest.mark.timeout(600 + 30 * TIMES)
@pytest.mark.parametrize("kind", ["raw", "runc"])
def test_there_and_back(kind: str, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node) -> None:
    start = works.raw if kind == "raw" else works.container
    handle = start("memory", "--mib", "8")
    for turn in range(TIMES):
        for here, there in ((node1, node2), (node2, node1)):
            done = reberth.move(word_of(here, handle), f"{there.name}:")
            assert done.code == 0, f"turn {turn}, {here.name} to {there.name}: {done}"
            healthy(there, handle)
            watch.check(here.name)
    works.stop(handle)
    watch.check()
