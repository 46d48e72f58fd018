"""LXD: two real daemons in two nodes, whose criu is held while they move a container."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Sequence

import pytest
from livekit import lxd as kit
from livekit.command import Command, Done, journal_of

from reberth_lab import lxd as lab_lxd
from reberth_lab.lab import Lab
from reberth_lab.node import Node
from reberth_lab.proc import LabError

pytestmark = pytest.mark.timeout(300)
NAME = "c1"
KEYS = {"migration.incremental.memory": "true", "migration.incremental.memory.iterations": "4"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes with LXD, apart from the session's lab, which has none."""
    if os.geteuid() != 0:
        pytest.skip("two nodes need root: namespaces, mounts, links")
    if importlib.util.find_spec("pylxd") is None:
        pytest.skip("pylxd is not installed (pip install 'reberth[lxd]')")
    lab = Lab(f"{(os.environ.get('REBERTH_LAB_NAME') or 'live')[:8]}x", say=lambda _: None)
    keep = os.environ.get("REBERTH_KEEP_LAB", "0") not in ("", "0")
    try:
        if not keep:
            lab.down()
        lab.up(2, with_parts=("lxd",))
    except LabError as error:
        pytest.skip(f"no nodes with LXD can be made: {error} ({error.hint})")
    yield lab.node("node1"), lab.node("node2")
    if not keep:
        lab.down()


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
    """The keys are as they were, whatever the move needed, and the old one is gone."""
    here, there = nodes
    kit.lxc(here, "config", "set", counter, "migration.incremental.memory=false")
    kit.lxc(here, "config", "set", counter, "migration.incremental.memory.iterations=4")
    config, before = kit.config(here, counter), kit.healthy(here, counter)
    done = command.move(f"node1:{counter}", "node2:")
    assert done.code == 0, str(done)
    after = kit.healthy(there, counter, before)
    assert kit.config(there, counter) == config and kit.status(here, counter) == ""
    assert kit.traces(nodes) == []
    assert abs(after["longest_silence_s"] - done.report["downtime_s"]) < max(0.3 * after["longest_silence_s"], 0.1)
    # The twin: what a careless copy would lose is seen.
    there.run(["truncate", "-s", "-16", f"/var/lib/lxd/containers/{counter}/rootfs/var/log/beats"])
    assert kit.ask(there, counter)["bad_lines"] > 0
    # This liblxc cannot dump what was restored; that is known before anything is touched.
    back = command.move(f"node2:{counter}", "node1:")
    assert back.code == 10 and "dumped-before" in back.error and "lxc restart" in back.error, str(back)


def test_a_restore_that_fails_never_costs_the_source(nodes: Sequence[Node], command: Command, counter: str) -> None:
    """criu on the target is refused its AppArmor profile: the daemons then report failure, or success."""
    here, there = nodes
    shim, config = there.read("/usr/local/sbin/criu"), kit.config(here, counter)
    there.write("/usr/local/sbin/criu", '#!/bin/sh\nexec /usr/sbin/criu "$@"\n', 0o755)
    try:
        found = command.move(f"node1:{counter}", "node2:")
        assert found.code == 10 and "apparmor" in found.error, str(found)
        before = kit.healthy(here, counter)
        done = command.move(f"node1:{counter}", "node2:", "--skip", "apparmor")
    finally:
        there.write("/usr/local/sbin/criu", shim, 0o755)
    assert done.code == 20 and "AppArmor" in done.error, str(done)
    after = kit.healthy(here, counter, before)
    assert after["longest_silence_s"] < 30, after
    assert kit.config(here, counter) == config and kit.status(there, counter) == ""
    assert kit.traces(nodes) == []


@pytest.mark.parametrize("side", [0, 1], ids=["source", "target"])
def test_a_daemon_dies(nodes: Sequence[Node], command: Command, counter: str, side: int) -> None:
    """While the data travels; the container goes on where it was."""
    before = kit.healthy(nodes[0], counter)
    process = command.start("move", "--json", "--", f"node1:{counter}", "node2:")
    _wait_for_dump(nodes[0])
    lab_lxd.stop(nodes[side])
    done = command.finish(process)
    lab_lxd.start(nodes[side])
    assert done.code == 20, str(done)
    kit.healthy(nodes[0], counter, before)
    _recovered(command, done)
    assert kit.status(nodes[1], counter) in ("", "Stopped")


def _wait_for_dump(node: Node) -> None:
    deadline = time.monotonic() + 20
    while node.run(["pgrep", "-f", "migratedumpsuccess"], check=False).returncode:
        assert time.monotonic() < deadline, "no dump began"
        time.sleep(0.02)


def _recovered(command: Command, done: Done) -> None:
    again = command.run("recover", "--json")
    assert again.code == 0, str(again)


def test_the_controller_dies(nodes: Sequence[Node], command: Command, counter: str) -> None:
    """The helpers act alone, and hold the daemons' criu until the daemons have given up."""
    before = kit.healthy(nodes[0], counter)
    process = command.start("move", "--json", "--", f"node1:{counter}", "node2:")
    _wait_for_dump(nodes[0])
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 120
    while kit.traces(nodes):
        assert time.monotonic() < deadline, kit.traces(nodes)
        time.sleep(0.5)
    kit.healthy(nodes[0], counter, before)
    again = command.run("recover", "--json")
    assert again.code == 0, str(again)
    assert kit.status(nodes[1], counter) == ""
    assert journal_of(command.state, again.report["runs"][0]["id"])[-1]["outcome"] == "rolled-back"
