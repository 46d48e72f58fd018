"""Trees that are compressed: fewer bytes over a slow link, the same memory behind it; none of it where it is fast.

Live because whether compression pays depends on a real link and real memory.
"""

from __future__ import annotations

import time

from livekit.arrival import check_twin
from livekit.cases import Case
from livekit.command import Command
from livekit.filling import SLOW_BIT_S
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth.plan.compression import FAST_BYTES_S
from reberth.text import human_bytes
from reberth_lab.lab import Lab
from reberth_lab.node import Node

MIB = 64
PLAIN = ("--mode", "stop-and-copy")


def test_a_slow_link_makes_it_pay_and_a_fast_one_does_not(
    lab: Lab, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    """By `auto`, which nobody has to ask for."""
    handle = works.raw("memory", "--mib", str(MIB), "--rate", "1", "--bits", "2")
    lab.tbf(node1.name, SLOW_BIT_S)
    try:
        done = reberth.move(word_of(node1, handle), "node2:", *PLAIN)
    finally:
        lab.tbf(node1.name, None)
    assert done.code == 0, str(done)
    found = done.report["compress"]
    assert found["method"] == "zstd" and "of a sample of its memory" in found["why"], str(done)
    assert found["raw_bytes"] > MIB << 20 and 0 < found["wire_bytes"] < 0.5 * found["raw_bytes"], found
    healthy(node2, handle)
    assert gone(node1, handle)
    check_twin(node2, handle, Case("memory", (), "stale-page", "memory differs"))

    back = reberth.run("plan", word_of(node2, handle), "node1:", *PLAIN, "--json")
    measured = back.report["measured"]
    assert human_bytes(measured["link_bytes_s"]) in measured["compress"]["why"], measured
    if measured["link_bytes_s"] >= FAST_BYTES_S:  # a busy machine's may be slower
        assert measured["compress"]["method"] == "none" and "is fast" in measured["compress"]["why"], measured
    works.stop(handle)
    watch.check()


def test_it_begins_while_a_run_is_under_way(
    works: Stand, watch: Watch, reberth: Command, settings, node1: Node, node2: Node
) -> None:
    """Through the controller's pipe, where the other test goes straight."""
    env = settings(lambda text: text.replace("direct = true", "direct = false"))
    handle = works.container("memory", "--mib", "32", "--rate", "1", "--bits", "2")
    words = (*PLAIN, "--compress", "none", "--bandwidth", "3MB/s", "--json", "--", word_of(node1, handle), "node2:")
    known = set(reberth.state.glob("reberth/runs/*"))
    process, end_s = reberth.start("move", *words, env=env), time.monotonic() + 60
    while not (new := set(reberth.state.glob("reberth/runs/*")) - known):
        assert process.poll() is None and time.monotonic() < end_s, "no run was begun"
        time.sleep(0.02)
    run_id = new.pop().name
    while (said := reberth.run("set", run_id, "compress=zlib", "--json", env=env)).code:  # nobody drives it yet
        assert process.poll() is None and time.monotonic() < end_s, str(said)
    done = reberth.finish(process)
    assert done.code == 0, str(done)
    found = done.report["compress"]
    assert found["method"] == "zlib" and 0 < found["wire_bytes"] < found["raw_bytes"], str(done)
    healthy(node2, handle)
    assert gone(node1, handle)
    works.stop(handle)
    watch.check()
