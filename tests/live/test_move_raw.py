"""Process trees, moved by criu alone: memory, descriptors, sockets and timers arrive as they were, and nothing stays."""

from __future__ import annotations

import pytest
from livekit.cases import RAW, Case
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver

from reberth_lab.node import Node


@pytest.mark.parametrize("case", RAW, ids=[case.id for case in RAW])
def test_it_arrives_whole(
    case: Case, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    handle = works.raw(case.kind, *case.words)
    healthy(node1, handle)
    driver.forget_gaps(node1, handle)
    done = reberth.move(word_of(node1, handle), "node2:")
    assert done.code == 0, str(done)
    assert (done.report["outcome"], done.report["owner"]) == ("moved", "target"), str(done)
    result = healthy(node2, handle)
    error_s = done.report["downtime_error_s"]
    measured_s = driver.longest_silence_s(result)
    print(f"downtime: reported {done.report['downtime_s']:.3f} s +- {error_s:.4f} s, measured {measured_s:.3f} s")
    assert abs(done.report["downtime_s"] - measured_s) <= max(0.020, 0.20 * measured_s) + error_s
    assert gone(node1, handle)
    # The twin: the same check says no when something is lost.
    driver.plant(node2, handle, case.plant)
    damaged = driver.verify(node2, handle)
    assert not damaged["ok"]
    assert driver.find_problem(damaged, case.problem), damaged["problems"]
    works.stop(handle)
    watch.check()
