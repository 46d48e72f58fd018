"""Fixtures of the live tests: one lab for the session, the command, snapshots, and the counts of what really ran.

`REBERTH_REQUIRE_LIVE=1` turns every skip of these tests into a failure and holds the counts against floor.toml;
`REBERTH_KEEP_LAB=1` leaves the lab up; `REBERTH_LAB_NAME` names another one than `live`. With `pytest -n` each worker
has labs of its own, whose names begin with that one (livekit/shards.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # livekit and the workloads' driver are packages of their own beside the tests

from livekit import lxd as lxdkit  # noqa: E402
from livekit import stand, tier  # noqa: E402
from livekit.command import Command, as_text, with_path, with_wrappers  # noqa: E402
from livekit.floors import COUNTS  # noqa: E402
from livekit.snapshot import Watch  # noqa: E402
from livekit.stand import Stand  # noqa: E402
from livekit.tier import KEEP  # noqa: E402

from reberth_lab import rootfs  # noqa: E402
from reberth_lab.lab import Lab  # noqa: E402
from reberth_lab.node import Node  # noqa: E402
from reberth_lab.proc import LabError  # noqa: E402

NAME = "live"
TEST_LIMIT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is live, and has time for a slow machine."""
    tier.mark(items, HERE, "live", TEST_LIMIT_S)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Two fresh nodes for the session."""
    if os.geteuid() != 0:
        pytest.skip("two nodes need root: namespaces, mounts, links")
    one = Lab(os.environ.get("REBERTH_LAB_NAME") or NAME, say=lambda _: None)
    try:
        if not KEEP:
            one.down()
        one.up(2, with_parts=("shells",))
    except LabError as error:
        if rootfs.cached(one.site.cache) is None:
            pytest.skip(f"there is no root filesystem for the nodes, and none can be made: {error} ({error.hint})")
        raise
    yield one
    if not KEEP:
        one.down()


@pytest.fixture(scope="session")
def lxd_lab() -> Iterator[Lab]:
    """Two nodes with LXD for the session."""
    yield from lxdkit.lab_with_lxd()


@pytest.fixture(scope="module")
def lxd_nodes(lxd_lab: Lab) -> tuple[Node, Node]:
    """The nodes with LXD, without what an earlier file left there."""
    nodes = lxd_lab.node("node1"), lxd_lab.node("node2")
    lxdkit.reset(lxd_lab, nodes)
    return nodes


@pytest.fixture(scope="session")
def node1(lab: Lab) -> Node:
    """Where workloads start."""
    return lab.node("node1")


@pytest.fixture(scope="session")
def node2(lab: Lab) -> Node:
    """Where they go."""
    return lab.node("node2")


@pytest.fixture(scope="session")
def reberth(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command on the outer machine, with the lab's inventory and a state folder of the session."""
    return Command(lab.config_path, tmp_path_factory.mktemp("state"))


@pytest.fixture
def watch(node1: Node, node2: Node, reberth: Command) -> Watch:
    """Both nodes and the outer machine as they are before the test's workloads start."""
    stand.keep_pids_apart((node1, node2))
    return Watch((node1, node2), reberth.state, reberth.ids)


@pytest.fixture
def works(node1: Node, node2: Node, watch: Watch) -> Iterator[Stand]:
    """Starts workloads; whatever the test did, they are ended and the journals are counted."""
    one = Stand((node1, node2))
    try:
        yield one
    finally:
        one.stop_all()
        COUNTS.collect({node.name: node.root for node in (node1, node2) if node.alive})


@pytest.fixture
def settings(reberth: Command, tmp_path: Path) -> Any:
    """Writes a changed copy of the inventory: `settings(lambda text: ...)` answers the environment that names it."""

    def write(change: Any) -> dict[str, str]:
        path = tmp_path / "config.toml"
        path.write_text(change(reberth.config.read_text(encoding="utf-8")), encoding="utf-8")
        return {"REBERTH_CONFIG": str(path)}

    return write


@pytest.fixture
def sabotage(settings: Any) -> Any:
    """The environment in which a command strikes in one phase: `sabotage("restore", ["kill", "-INT", "@pid@"])`.

    With a delay the phase must still go on by then: nothing makes it short, neither memory that went ahead nor pages
    that come later.
    """

    def prepare(phase: str, command: list[str], delay_s: float = 0.0) -> Mapping[str, str]:
        slow = "\n[defaults]\nmemory_ahead = false\nlazy_restore = false\n" if delay_s else ""
        return {
            **settings(lambda text: with_wrappers(text, "saboteur") + slow),
            **with_path(HERE / "saboteur"),
            "SABOTAGE_PHASE": phase,
            "SABOTAGE_CMD": as_text(command),
            "SABOTAGE_DELAY_S": f"{delay_s:g}",
        }

    return prepare
