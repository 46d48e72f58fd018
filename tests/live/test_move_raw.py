"""Process trees, moved by criu alone: memory, descriptors, sockets and timers arrive whole, and nothing stays.

Live because each kind of memory, descriptor, socket and timer passes through the real criu.
"""

from __future__ import annotations

import pytest
from livekit.arrival import check_twin, move_and_judge
from livekit.cases import RAW, Case
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand

from reberth_lab.node import Node


@pytest.mark.parametrize("case", RAW, ids=[case.id for case in RAW])
def test_it_arrives_whole(case: Case, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node) -> None:
    handle = works.raw(case.kind, *case.words)
    move_and_judge(handle, reberth, node1, node2)
    watch.check(node1.name)
    check_twin(node2, handle, case)
    works.stop(handle)
    watch.check()


def test_without_lazy_restore(works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node) -> None:
    handle = works.raw("memory", "--mib", "64")
    move_and_judge(handle, reberth, node1, node2, "--no-lazy-restore")
    move_and_judge(handle, reberth, node2, node1, "--no-lazy-restore")
    works.stop(handle)
    watch.check()
