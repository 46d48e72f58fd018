"""Rounds of memory between kernels that track written pages: falling bytes, a chain that holds, every byte right."""

from __future__ import annotations

from typing import Any

import pytest
from livekit import stand
from livekit.command import Command, Done
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver
from workloads.driver import Handle

from reberth_lab.node import Node

MIB = 128
WORDS = ("memory", "--mib", str(MIB), "--rate", "0.5")
THREE = ("--policy", "fixed", "--iterations", "3")
# A link that is slower than an emulated processor, by far: else what is compared is how fast programs start there.
LINK = ("--bandwidth", "3MB/s")
# All memory while it stands still, which is what the name of that mode says: nothing ahead of the freeze.
PLAIN = {"REBERTH_MEMORY_AHEAD": "false", "REBERTH_LAZY_RESTORE": "false"}
SHARE_OF_PLAIN, MOST_SENT = 0.20, 1.05
MOVE_S = 600.0
pytestmark = pytest.mark.timeout(2400)


@pytest.fixture(autouse=True)
def small_pages(vm_nodes: tuple[Node, Node]) -> None:
    stand.small_pages(vm_nodes)


def move(
    handle: Handle, reberth: Command, here: Node, there: Node, *options: str, env: dict[str, str] | None = None
) -> Done:
    """There with every byte right, here and gone."""
    words = ("move", *LINK, *options, "--json", "--", word_of(here, handle), f"{there.name}:")
    done = reberth.run(*words, env=env, limit_s=MOVE_S)
    assert done.code == 0, str(done)
    kept = ("bytes", "seconds", "pages_written", "pages_skipped_parent", "pages_lazy")
    rounds = [{key: one[key] for key in kept} for one in done.report["rounds"]]
    print(done.report["mode"], done.report["downtime_s"], done.report["stop_reason"], done.report["bytes"], *rounds)
    print(*(f"{phase['name']} {phase['seconds']:.2f}" for phase in done.report["phases"]))
    healthy(there, handle)
    assert gone(here, handle)
    return done


def check_rounds(done: Done, pages_of_all: int) -> None:
    """Three rounds while it runs and a last one, each of fewer bytes; the chain of images was used."""
    rounds: list[dict[str, Any]] = done.report["rounds"]
    assert len(rounds) == 4, str(done)
    assert rounds[0]["pages_written"] >= pages_of_all, rounds
    assert rounds[1]["pages_skipped_parent"] > 0.5 * pages_of_all, rounds
    sizes = [one["bytes"] for one in rounds[:3]]
    assert sizes[0] > sizes[1] > sizes[2], sizes
    assert done.report["stop_reason"] == "iterations", str(done)


@pytest.mark.parametrize("kind", ["criu", "runc"])
def test_rounds(kind: str, vm_nodes: tuple[Node, Node], works: Stand, watch: Watch, reberth: Command) -> None:
    """One workload, three moves: all at once, then with rounds, then with rounds and the rest behind."""
    node1, node2 = vm_nodes
    handle = works.raw(*WORDS) if kind == "criu" else works.container(*WORDS)
    plain = move(handle, reberth, node1, node2, "--mode", "stop-and-copy", env=PLAIN)
    early = move(handle, reberth, node2, node1, "--mode", "pre-copy", *THREE)
    check_rounds(early, MIB * 256)
    both = move(handle, reberth, node1, node2, "--mode", "hybrid", *THREE)
    check_rounds(both, MIB * 256)
    for done in (early, both):
        assert done.report["downtime_s"] <= SHARE_OF_PLAIN * plain.report["downtime_s"], str(done)
    # What followed the copy is what the last round left, and no page of an earlier one.
    followed = both.report["bytes"]["pages"] - sum(one["bytes"] for one in both.report["rounds"][:3])
    assert followed <= MOST_SENT * both.report["rounds"][3]["pages_lazy"] * 4096 + (1 << 16), both.report
    watch.check(node1.name)
    driver.plant(node2, handle, "stale-page")
    assert driver.find_problem(driver.verify(node2, handle), "memory differs"), "a stale page was not noticed"
    works.stop(handle)
    watch.check()
