"""Post-copy: the copy runs at once, its pages follow, and every one of them is compared when the last has come."""

from __future__ import annotations

import pytest
from livekit.arrival import check_twin
from livekit.cases import Case
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver

from reberth_lab.node import Node

MIB = 128
POST_COPY = ("--mode", "post-copy")


@pytest.mark.parametrize("kind", ["criu", "runc"])
def test_every_page_arrives(kind: str, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node) -> None:
    words = ("memory", "--mib", str(MIB), "--rate", "1")
    handle = works.raw(*words) if kind == "criu" else works.container(*words)
    healthy(node1, handle)
    driver.forget_gaps(node1, handle)
    done = reberth.move(word_of(node1, handle), "node2:", *POST_COPY)
    assert done.code == 0, str(done)
    assert (done.report["outcome"], done.report["mode"]) == ("moved", "post-copy"), str(done)
    silence_s = driver.longest_silence_s(healthy(node2, handle))
    # Its first steps wait for pages, so the silence is longer than the downtime, never shorter.
    assert silence_s > 0.8 * done.report["downtime_s"] - driver.DOWNTIME_S, (silence_s, str(done))
    assert gone(node1, handle)
    assert done.report["rounds"][-1]["pages_lazy"] >= MIB * 256
    assert done.report["bytes"]["pages"] >= MIB << 20
    watch.check(node1.name)
    check_twin(node2, handle, Case("memory", (), "stale-page", "memory differs"))
    works.stop(handle)
    watch.check()
