"""Incus with pre-copy: two daemons on kernels that track memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import pytest
from livekit import lxd as kit
from livekit import tier
from livekit.command import Command

from reberth_lab.lab import VM, Lab
from reberth_lab.node import Node

pytestmark = pytest.mark.timeout(900)
NAME = "c1"
MOVE_S = 400
KEY = "migration.incremental.memory"


@pytest.fixture(scope="module")
def nodes(vm_image: None) -> Iterator[tuple[Node, Node]]:
    """Two virtual nodes with Incus; their disk is one of its own."""
    if importlib.util.find_spec("pylxd") is None:
        pytest.skip("pylxd is not installed (pip install 'reberth[lxd]')")
    lab = Lab(tier.lab_name("i"), say=print)
    if not tier.KEEP:
        lab.down()
    lab.up(2, kind=VM, with_parts=("incus",))
    yield lab.node("node1"), lab.node("node2")
    if not tier.KEEP:
        lab.down()


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
    rounds = done.report["rounds"][:-1]
    print(*rounds, done.report["stop_reason"], done.report["downtime_s"], done.report["total_s"])
    assert 3 <= len(rounds) <= 4 and rounds[0]["pages_skipped_parent"] == 0 < rounds[0]["pages_written"], rounds
    assert all(one["pages_skipped_parent"] > 0 and one["bytes"] > 0 for one in rounds[1:]), rounds
    assert kit.config(there, counter) == config and kit.status(here, counter) == ""
    assert done.report["stop_reason"] and kit.traces(nodes) == []
