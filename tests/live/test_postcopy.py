"""Post-copy: the copy runs at once, its pages follow, and every one of them is compared when the last has come.

Live because pages come through userfaultfd of a real kernel.

Its gap is compared with that of a plain stop-and-copy (nothing ahead of the freeze, all read before the copy runs) of
the same workload in the same run.
"""

from __future__ import annotations

from typing import Any

import pytest
from livekit.arrival import check_twin
from livekit.cases import Case
from livekit.command import Command, Done
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver
from workloads.driver import Handle

from reberth_lab.node import Node

MIB = 1024
POST_COPY = ("--mode", "post-copy")
PLAIN = {"REBERTH_MODE": "stop-and-copy", "REBERTH_MEMORY_AHEAD": "false", "REBERTH_LAZY_RESTORE": "false"}
SHARE_OF_PLAIN = 0.20


def moved(handle: Handle, reberth: Command, here: Node, there: Node, *options: str, **how: Any) -> tuple[Done, float]:
    """The run, and the longest silence of the workload itself."""
    driver.forget_gaps(here, handle)
    done = reberth.move(word_of(here, handle), f"{there.name}:", *options, **how)
    assert done.code == 0, str(done)
    silence_s = driver.longest_silence_s(healthy(there, handle))
    print(f"{done.report['mode']}: downtime {done.report['downtime_s']:.3f} s, silence {silence_s:.3f} s")
    assert gone(here, handle)
    return done, silence_s


@pytest.mark.parametrize("kind", ["criu", "runc"])
def test_every_page_arrives(kind: str, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node) -> None:
    words = ("memory", "--mib", str(MIB), "--rate", "1")
    handle = works.raw(*words) if kind == "criu" else works.container(*words)
    healthy(node1, handle)
    _, plain_s = moved(handle, reberth, node1, node2, env=PLAIN)
    done, silence_s = moved(handle, reberth, node2, node1, *POST_COPY)
    assert (done.report["outcome"], done.report["mode"]) == ("moved", "post-copy"), str(done)
    # Its first steps wait for pages, so the silence is longer than the downtime, never shorter.
    assert silence_s > 0.8 * done.report["downtime_s"] - driver.DOWNTIME_S, (silence_s, str(done))
    assert silence_s <= SHARE_OF_PLAIN * plain_s
    assert done.report["rounds"][-1]["pages_lazy"] >= MIB * 256
    assert done.report["bytes"]["pages"] >= MIB << 20
    watch.check(node2.name)
    check_twin(node1, handle, Case("memory", (), "stale-page", "memory differs"))
    works.stop(handle)
    watch.check()
