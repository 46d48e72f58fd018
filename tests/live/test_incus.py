"""Incus: the plugin of LXD with two real daemons of Incus, in two nodes that have no LXD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from livekit import lxd as kit
from livekit.command import Command

from reberth_lab.node import Node

pytestmark = pytest.mark.timeout(300)
NAME = "c1"


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes with Incus."""
    for lab in kit.lab_with_lxd("incus"):
        yield lab.node("node1"), lab.node("node2")


@pytest.fixture(scope="module")
def command(nodes: Sequence[Node], tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(nodes[0].site.config_path, tmp_path_factory.mktemp("state"))


@pytest.fixture
def counter(nodes: Sequence[Node]) -> Iterator[str]:
    """A fresh container on node1; nothing of it stays."""
    kit.delete(nodes, NAME)
    kit.launch(nodes[0], NAME)
    yield NAME
    kit.delete(nodes, NAME)


def test_it_arrives_whole_with_its_keys(nodes: Sequence[Node], command: Command, counter: str) -> None:
    """Found by its socket alone; the counter goes on, its keys are as they were, and nothing is left."""
    here, there = nodes
    kit.lxc(here, "config", "set", counter, "migration.incremental.memory.iterations=4")
    config, before = kit.config(here, counter), kit.healthy(here, counter)
    done = command.move(f"node1:{counter}", "node2:")
    assert done.code == 0, str(done)
    kit.healthy(there, counter, before)
    assert kit.config(there, counter) == config and kit.status(here, counter) == ""
    assert kit.traces(nodes) == []
    # This liblxc cannot dump what was restored; the remedy names the client that there is.
    back = command.move(f"node2:{counter}", "node1:")
    assert back.code == 10 and "dumped-before" in back.error and f"incus restart {counter}" in back.error, str(back)


def test_a_restore_that_fails_never_costs_the_source(nodes: Sequence[Node], command: Command, counter: str) -> None:
    """criu on the target is refused its AppArmor profile."""
    here, there = nodes
    shim, config = there.read("/usr/local/sbin/criu"), kit.config(here, counter)
    there.write("/usr/local/sbin/criu", '#!/bin/sh\nexec /usr/sbin/criu "$@"\n', 0o755)
    try:
        before = kit.healthy(here, counter)
        done = command.move(f"node1:{counter}", "node2:", "--skip", "apparmor")
    finally:
        there.write("/usr/local/sbin/criu", shim, 0o755)
    assert done.code == 20 and "AppArmor" in done.error, str(done)
    kit.healthy(here, counter, before)
    assert kit.config(here, counter) == config and kit.status(there, counter) == ""
    assert kit.traces(nodes) == []
