"""A parent that starts again what ends would make two of a workload that moved: refused, and only one ever runs.

Live because a real parent starts again what criu ended.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from livekit.command import Command
from livekit.snapshot import Watch
from workloads import driver

from reberth_lab.node import Node

# Starts its child anew whenever it ends, as Restart=always does.
PARENT = "while :; do {child} --foreground & echo $! > {place}/child; wait; sleep 0.05; done"


@dataclass
class Supervised:
    """A workload whose parent restarts it."""

    node: Node
    directory: str
    parent: int

    def children(self) -> list[int]:
        """Its processes that run now."""
        done = self.node.run(["pgrep", "-f", "--", f"^/usr/bin/python3 .*--dir {self.directory}( |$)"], check=False)
        return [int(word) for word in done.stdout.split()]

    def child(self) -> int:
        """The one child, once it is ready."""
        end_s = time.monotonic() + 30
        while self.node.run(["test", "-e", f"{self.directory}/ready"], check=False).returncode != 0:
            assert time.monotonic() < end_s, "it never was ready"
            time.sleep(0.05)
        return int(self.node.read(f"{self.directory}/child"))


@pytest.fixture
def supervised(watch: Watch, node1: Node, node2: Node) -> Iterator[Supervised]:
    """Such a workload on the first node; its folder is on both."""
    directory = f"{driver.STATES}/supervised"
    for node in (node1, node2):
        driver.install(node)
        node.run(["mkdir", "-p", directory])
    words = [*driver.PYTHON, "memory", "--dir", directory, "--mib", "4"]
    loop = PARENT.format(child=shlex.join(words), place=directory)
    one = Supervised(node1, directory, node1.spawn(["sh", "-c", loop]))
    one.child()
    yield one
    node1.run(["kill", "-KILL", str(one.parent)], check=False)
    node1.run(["sh", "-c", 'kill -KILL "$@"', "sh", *map(str, one.children())], check=False)
    for node in (node1, node2):
        node.run(["rm", "-rf", "--", directory])
        assert Supervised(node, directory, 0).children() == []


def test_the_stand_in_really_restarts(supervised: Supervised) -> None:
    """The twin: without this the tests below would prove nothing."""
    first = supervised.child()
    supervised.node.run(["kill", "-KILL", str(first)])
    end_s = time.monotonic() + 20
    while supervised.children() in ([], [first]) and time.monotonic() < end_s:
        time.sleep(0.05)
    assert len(supervised.children()) == 1 and supervised.children() != [first]


def test_a_child_of_a_restarting_parent_is_refused(supervised: Supervised, reberth: Command, node2: Node) -> None:
    child = supervised.child()
    done = reberth.move(f"node1:criu/{child}", "node2:")
    assert done.code == 10, str(done)
    assert "its parent sh lives" in done.error, str(done)
    assert supervised.children() == [child]
    assert Supervised(node2, supervised.directory, 0).children() == []
