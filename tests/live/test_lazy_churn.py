"""A tree that forks, unmaps, madvises and mremaps all the time is restored lazily; `make soak` has larger ones.

Live because only the kernel and CRIU make userfaultfds, and their events.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.churn import BACKENDS, Moved, one_move
from livekit import churn
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import remove_empty_cgroups

from reberth_lab.node import Node

MIB = 72


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_process_has_its_pages_early(
    backend: str, watch: Watch, reberth: Command, node1: Node, node2: Node, tmp_path: Path
) -> None:
    """The small first process is complete at once, and its events go on while the other one waits for its pages."""
    nodes = (node1, node2)
    churn.install(nodes, tmp_path)
    one = Moved(0, 2, "stop-and-copy", backend)
    tree = churn.start(backend, nodes, f"churn-{backend}", one.processes, MIB)
    try:
        one_move(reberth, tree, nodes, one)
        assert one.problems == []
        told = node2.run(["pgrep", "-x", "reberth-holder"], check=False)
        assert told.stdout == ""
    finally:
        tree.stop(nodes)
        for node in nodes:
            remove_empty_cgroups(node)
    watch.check()
