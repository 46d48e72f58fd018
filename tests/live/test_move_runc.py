"""Containers of runc: processes and the root filesystem they write arrive together, of the same moment.

Live because real runc, cgroups and a root filesystem that is written all the time.
"""

from __future__ import annotations

import random
import time

import pytest
from livekit.arrival import check_twin, move_and_judge
from livekit.cases import CONTAINERS, FILESYSTEM_PLANTS, Case
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver

from reberth_lab.node import Node

MOVES = 8


@pytest.mark.parametrize("case", CONTAINERS, ids=[case.id for case in CONTAINERS])
def test_it_arrives_whole(case: Case, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node) -> None:
    handle = works.container(case.kind, *case.words)
    move_and_judge(handle, reberth, node1, node2)
    watch.check(node1.name)
    check_twin(node2, handle, case)
    works.stop(handle)
    watch.check()


def test_files_that_are_written_while_it_moves(
    works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    """To and fro at random moments; the writer compares disk and memory after each silence and at each question."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    handle = works.container("fswriter", "--rate", "600", "--seed", str(seed))
    here, there = node1, node2
    for _ in range(MOVES):
        time.sleep(moments.uniform(0, 0.4))
        done = reberth.move(word_of(here, handle), f"{there.name}:")
        assert done.code == 0, str(done)
        result = healthy(there, handle)
        assert gone(here, handle)
        watch.check(here.name)
        here, there = there, here
    assert result["checks"]["silences looked at"] >= MOVES, result["checks"]
    assert result["checks"]["operations"] > MOVES * 20, result["checks"]
    works.stop(handle)
    watch.check()


def test_each_loss_of_a_copy_would_be_noticed(
    works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    """The twins of the test before: what a careless copy would lose, one after the other, on a tree that has moved."""
    handle = works.container("fswriter", "--rate", "0")
    move_and_judge(handle, reberth, node1, node2)
    known: set[str] = set()
    for plant, problem in FILESYSTEM_PLANTS:
        driver.plant(node2, handle, plant)
        found = set(driver.verify(node2, handle)["problems"])
        assert any(problem in text for text in found - known), f"{plant} was not noticed: {found - known}"
        known |= found
    works.stop(handle)
    watch.check()
