"""Incus with pre-copy: two daemons on kernels that track memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from livekit import lxd as kit
from livekit.command import Command

from reberth_lab.lab import VM
from reberth_lab.node import Node

pytestmark = pytest.mark.timeout(900)
NAME = "c1"
MOVE_S = 400
KEY = "migration.incremental.memory"


@pytest.fixture(scope="module")
def nodes(vm_image: None) -> Iterator[tuple[Node, Node]]:
    """Two virtual nodes with Incus; their disk is one of its own."""
    for lab in kit.lab_with_lxd("incus", kind=VM):
        yield lab.node("node1"), lab.node("node2")


@pytest.fixture(scope="module")
def command(nodes: Sequence[Node], tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(nodes[0].site.config_path, tmp_path_factory.mktemp("state"))


@pytest.fixture
def counter(nodes: Sequence[Node]) -> Iterator[str]:
    """A fresh container on node1; nothing of it stays."""
    yield from kit.fresh(nodes, NAME)


def test_rounds_of_pre_copy(nodes: Sequence[Node], command: Command, counter: str) -> None:
    """By its keys: at least three real rounds, told by criu's own counters; memory and disk whole, keys as before."""
    here, there = nodes
    kit.lxc(here, "config", "set", counter, f"{KEY}=true", f"{KEY}.iterations=4", f"{KEY}.goal=95")
    config, before = kit.config(here, counter), kit.healthy(here, counter)
    done = command.run("move", "--json", "--", f"node1:lxd/{counter}", "node2:", limit_s=MOVE_S)
    assert done.code == 0 and done.report["mode"] == "pre-copy", str(done)
    kit.healthy(there, counter, before)
    print(*done.report["rounds"], done.report["stop_reason"], done.report["downtime_s"], done.report["total_s"])
    kit.check_rounds(done.report, 4)
    assert kit.config(there, counter) == config and kit.status(here, counter) == ""
    assert done.report["stop_reason"] and kit.traces(nodes) == []
