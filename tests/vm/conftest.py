"""Fixtures of the tests with virtual nodes: kernels of their own, with soft-dirty, that were started apart.

`vm_nodes` and `reberth` are what a test of a mode needs, `works` starts workloads; docs/how-to/lab.md shows one.
The variables of tests/live/conftest.py hold here too; the lab is called like theirs with a `v` behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from livekit import stand, tier
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand

from reberth_lab import apt
from reberth_lab.lab import VM, Lab
from reberth_lab.node import Node
from reberth_lab.proc import LabError
from reberth_lab.vm import image
from reberth_lab.vm.up import missing_tools

HERE = Path(__file__).resolve().parent
TEST_LIMIT_S = 420  # emulated, and the first one may make the disk


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is one with virtual nodes."""
    tier.mark(items, HERE, "vm", TEST_LIMIT_S)


@pytest.fixture(scope="session")
def vm_image() -> None:
    """Skips the test, with the reason, where there can be no virtual nodes."""
    if os.geteuid() != 0:
        pytest.skip("virtual nodes need root: taps and a bridge")
    if missing_tools():
        pytest.skip(f"not installed: {', '.join(missing_tools())}")
    cache = Lab(tier.lab_name("v")).site.cache
    if image.cached(cache) is None:
        try:
            apt.find_mirror()
        except LabError as error:
            pytest.skip(f"there is no disk for virtual nodes, and none can be made: {error} ({error.hint})")


@pytest.fixture
def vm_spare(vm_image: None) -> Iterator[Lab]:
    """A lab that is down, and down again after the test."""
    lab = Lab(tier.lab_name("w"), say=print)
    lab.down()
    yield lab
    lab.down()


@pytest.fixture(scope="session")
def vm_lab(vm_image: None) -> Iterator[Lab]:
    """Two virtual nodes for the session; node2 is started when node1 has booted, so their clocks differ by seconds."""
    lab = Lab(tier.lab_name("v"), say=print)
    if not tier.KEEP:
        lab.down()
    lab.up(1, kind=VM)
    lab.up(2, kind=VM)
    yield lab
    if not tier.KEEP:
        lab.down()


@pytest.fixture(scope="session")
def vm_nodes(vm_lab: Lab) -> tuple[Node, Node]:
    """Where workloads start, and where they go."""
    return vm_lab.node("node1"), vm_lab.node("node2")


@pytest.fixture(scope="session")
def reberth(vm_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command on the outer machine, with the virtual lab's inventory and a state folder of the session."""
    return Command(vm_lab.config_path, tmp_path_factory.mktemp("state"))


@pytest.fixture
def watch(vm_nodes: tuple[Node, Node], reberth: Command) -> Watch:
    """Both nodes and the outer machine as they are before the test's workloads start."""
    stand.keep_pids_apart(vm_nodes)
    return Watch(vm_nodes, reberth.state, reberth.ids)


@pytest.fixture
def works(vm_nodes: tuple[Node, Node], watch: Watch) -> Iterator[Stand]:
    """Starts workloads, which are ended whatever the test did."""
    one = Stand(vm_nodes)
    try:
        yield one
    finally:
        one.stop_all()
