"""Incus: the plugin of LXD with two real daemons of Incus, in two nodes that have no LXD.

Live because Incus decides by itself what it accepts and what it leaves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from livekit import lxd as kit
from livekit import near
from livekit.command import Command

from reberth.testing.tool import first_line
from reberth_lab import lxd as lab_lxd
from reberth_lab.node import Node

pytestmark = pytest.mark.timeout(300)
NAME, KEY = "c1", "migration.incremental.memory"


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
    yield from kit.fresh(nodes, NAME)


CLIENT = """{first_line}
import os, sys
from reberth_lab.lab import Lab
words = Lab({lab!r}, say=lambda _: None).node("node1").enter(["incus", *sys.argv[1:]], {{"INCUS_ALIASES": "1"}})
os.execvp(words[0], words)
"""


@pytest.fixture
def client(nodes: Sequence[Node], tmp_path: Path) -> dict[str, str]:
    """An `incus` on this machine that is node1's real one."""
    path = tmp_path / "incus"
    path.write_text(CLIENT.format(first_line=first_line(sys.executable), lab=nodes[0].site.name))
    path.chmod(0o755)
    return {"PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])}


def test_it_arrives_whole_with_its_keys(
    nodes: Sequence[Node], command: Command, counter: str, client: dict[str, str]
) -> None:
    """By the alias of its own client; the counter goes on, its keys are as they were, and nothing is left."""
    here, there = nodes
    kit.lxc(here, "config", "set", counter, f"{KEY}=true", f"{KEY}.iterations=4")
    config, before = kit.config(here, counter), kit.healthy(here, counter)
    done = command.run("lxd", "alias", "install", "--client", "incus", env=client)
    assert done.code == 0 and "move" in kit.lxc(here, "alias", "list", "-f", "csv"), str(done)
    done = command.run("lxd", "shim", "incus", f"node1:{counter}", "node2:", env=client)
    assert done.code == 0 and "moved" in done.stdout and f"{KEY} is true" in done.stderr, str(done)
    assert command.run("lxd", "alias", "remove", "--client", "incus", env=client).code == 0
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
    lab_lxd.stop(there)  # Incus 6.0.4, as LXD, may stay "busy" with this name until it is started again
    lab_lxd.start(there)


BTRFS = """
set -e
mknod /dev/loop-control c 10 237 2>/dev/null || :
for i in 0 1 2 3 4 5 6 7; do mknod /dev/loop$i b 7 $i 2>/dev/null || :; done
truncate -s 300M /var/tmp/pool.img
mkfs.btrfs -q -f /var/tmp/pool.img
mkdir -p /mnt/pool
mount -o loop /var/tmp/pool.img /mnt/pool
"""
POOL = "moved"


@pytest.fixture
def pools(nodes: Sequence[Node]) -> Iterator[Callable[..., None]]:
    """Make a pool of that name and of these kinds on the nodes; gone afterwards, with what is in it."""
    if "\tbtrfs" not in Path("/proc/filesystems").read_text(encoding="ascii"):
        pytest.skip("this kernel has no btrfs")
    kit.delete(nodes, NAME)

    def make(*kinds: str) -> None:
        for node, kind in zip(nodes, kinds, strict=True):
            if kind == "btrfs":
                node.run(["sh", "-c", BTRFS])
            kit.lxc(node, "storage", "create", POOL, kind, *(["source=/mnt/pool"] if kind == "btrfs" else []))

    yield make
    kit.delete(nodes, NAME)
    for node in nodes:
        kit.lxc(node, "storage", "delete", POOL, check=False)
        node.run(["umount", "/mnt/pool"], check=False)


def test_from_btrfs_by_files_or_not_at_all(nodes: Sequence[Node], command: Command, pools: Callable[..., None]) -> None:
    """Snapshots, as between two such pools, would lack the last writes; to a pool of another kind they all arrive."""
    here, there = nodes
    pools("btrfs", "btrfs")
    kit.launch(here, NAME, "-s", POOL)
    found = command.move(f"node1:{NAME}", "node2:")
    assert found.code == 10 and "btrfs to btrfs" in found.error, str(found)
    kit.lxc(there, "storage", "delete", POOL)
    kit.lxc(there, "storage", "create", POOL, "dir")
    before = kit.healthy(here, NAME)
    done = command.move(f"node1:{NAME}", "node2:")
    assert done.code == 0, str(done)
    kit.healthy(there, NAME, before)
    assert kit.status(here, NAME) == "" and kit.traces(nodes) == []


KINDS = [("btrfs", "btrfs"), ("btrfs", "dir"), ("dir", "dir"), ("dir", "btrfs")]
KINDS = KINDS if os.environ.get("REBERTH_LXD_FAULTS", "") == "all" else KINDS[:1]  # five seconds each


@pytest.mark.parametrize("kinds", KINDS, ids=["-".join(kinds) for kinds in KINDS])
def test_near_live_loses_no_write(
    nodes: Sequence[Node], command: Command, pools: Callable[..., None], kinds: tuple[str, str]
) -> None:
    """It stands still when the last files are sent: so all arrive, be it as a snapshot, and one runs at a time."""
    here, there = nodes
    pools(*kinds)
    near.counter(nodes, NAME, "-s", POOL)
    config, before = kit.config(here, NAME), kit.healthy(here, NAME)
    near.watch(nodes, NAME)
    done = command.move(f"node1:{NAME}", "node2:", *near.NEAR, "--keep-source")
    assert done.code == 0 and done.report["mode"] == "near-live", str(done)
    near.answering(there, NAME)
    near.check(nodes, NAME, before)
    assert kit.config(there, NAME) == config and kit.status(here, NAME) == "Stopped"
    assert kit.traces(nodes) == []
