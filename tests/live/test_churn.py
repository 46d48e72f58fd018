"""A workload that starts short programs all the time is moved; 20 of each kind are part of `make soak`.

Live because only the kernel freezes a task inside vfork(2), and only criu fails at one.
"""

from __future__ import annotations

import pytest
from faults.forks import KINDS, move_once
from livekit.command import Command
from livekit.snapshot import Watch

from reberth_lab.node import Node


@pytest.mark.parametrize("kind", ["one-loop", "eight-loops"])
def test_short_lived_children_are_no_obstacle(
    kind: str, watch: Watch, node1: Node, node2: Node, reberth: Command
) -> None:
    done, arrived = move_once((node1, node2), reberth, KINDS[kind])
    assert done.code == 0, done
    assert arrived
    watch.check()
