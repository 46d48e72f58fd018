"""Memory by criu's page servers: straight into the target's images, whole or not at all, and nobody else's."""

from __future__ import annotations

import pytest
from livekit.arrival import check_twin
from livekit.cases import Case
from livekit.command import Command
from livekit.rollback import check_source
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver
from workloads.driver import Handle

from reberth_lab.lab import Lab
from reberth_lab.node import Node

MIB = 64
PAGED = ("--mode", "stop-and-copy")


def listed(text: str) -> str:
    """The inventory with the transport before the other one on both nodes."""
    return text.replace('transports = ["ssh"]', 'transports = ["page-server", "ssh"]')


def start(kind: str, works: Stand) -> Handle:
    words = ("memory", "--mib", str(MIB), "--rate", "1")
    return works.raw(*words) if kind == "criu" else works.container(*words)


@pytest.mark.parametrize("direct", ["true", "false"], ids=["direct", "by ssh"])
@pytest.mark.parametrize("kind", ["criu", "runc"])
def test_every_page_arrives(
    kind: str, direct: str, works: Stand, watch: Watch, reberth: Command, settings, node1: Node, node2: Node
) -> None:
    env = settings(lambda text: listed(text).replace("direct = true", f"direct = {direct}"))
    handle = start(kind, works)
    healthy(node1, handle)
    done = reberth.move(word_of(node1, handle), "node2:", *PAGED, env=env)
    assert done.code == 0, str(done)
    assert done.report["transports"] == ["page-server", "ssh"], str(done)
    assert done.report["bytes"]["pages"] >= MIB << 20, str(done)
    assert not done.report["bytes"]["memory"], str(done)
    healthy(node2, handle)
    assert gone(node1, handle)
    check_twin(node2, handle, Case("memory", (), "stale-page", "memory differs"))
    works.stop(handle)
    watch.check()
