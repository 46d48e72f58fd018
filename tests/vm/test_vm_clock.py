"""Between nodes that were started minutes apart: the clocks of a copy go on, and so do its timers."""

from __future__ import annotations

import time

import pytest
from livekit import stand
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver

from reberth_lab.lab import VM, Lab
from reberth_lab.node import Node

APART_S = 150.0  # more than the workload's own margin, many times
pytestmark = pytest.mark.timeout(900)


def uptime_s(node: Node) -> float:
    """How long the node's kernel runs."""
    return float(node.read("/proc/uptime").split()[0])


@pytest.fixture
def apart(vm_lab: Lab, vm_nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    """node1, and node2 that was started at least so much later; it is started anew if it was not."""
    node1, node2 = vm_nodes
    if uptime_s(node1) - uptime_s(node2) < APART_S:
        vm_lab.crash("node2")
        time.sleep(max(0.0, APART_S - uptime_s(node1)))
        vm_lab.up(2, kind=VM)
        stand.keep_pids_apart(vm_nodes)
    assert uptime_s(node1) - uptime_s(node2) >= APART_S
    return vm_nodes


@pytest.mark.parametrize("kind", ["criu", "runc"])
def test_clocks_go_on(kind: str, apart: tuple[Node, Node], works: Stand, watch: Watch, reberth: Command) -> None:
    """There the node's clock is minutes behind, and on the way back minutes ahead."""
    node1, node2 = apart
    handle = works.raw("clocks") if kind == "criu" else works.container("clocks")
    for here, there in ((node1, node2), (node2, node1)):
        done = reberth.move(word_of(here, handle), f"{there.name}:")
        assert done.code == 0, str(done)
        healthy(there, handle)
        assert gone(here, handle)
    driver.plant(node1, handle, "back")
    assert driver.find_problem(driver.verify(node1, handle), "went on by -"), "a clock that went back was not noticed"
    works.stop(handle)
    watch.check()
