"""LXD with pre-copy and pools of all kinds: two daemons on kernels that track memory, and the client's own alias.

The client is the nodes' own program, run on this machine with the lab's identity.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from livekit import lxd as kit
from livekit import pools
from livekit.command import Command

from reberth_lab import lxd as lab_lxd
from reberth_lab.lab import VM
from reberth_lab.node import Node

pytestmark = pytest.mark.timeout(900)
NAME = "c1"
KEY = "migration.incremental.memory"
KEYS = {KEY: "true", f"{KEY}.iterations": "4", f"{KEY}.goal": "80"}
MOVE_S = 400
ZFS = os.environ.get("REBERTH_VM_ZFS", "0") not in ("", "0")  # its modules take ten minutes to build
PAIRS = [(("lvm", "lvm"), "3"), (("lvm", "dir"), ""), (("btrfs", "dir"), "")]  # kinds of pools, rounds
OPTIMIZED = ["btrfs"]
if ZFS:
    PAIRS.append((("zfs", "dir"), ""))
    OPTIMIZED.append("zfs")


@dataclass(frozen=True)
class Client:
    """The real `lxc` on this machine, whose remotes are the nodes and whose `move` is reberth's."""

    program: Path
    env: dict[str, str]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.program), *words],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MOVE_S,
            env=self.env,
        )


@pytest.fixture(scope="module")
def lxd_nodes(vm_image: None) -> Iterator[tuple[Node, Node]]:
    """Two virtual nodes with LXD; their disk is another one than that of the other tests."""
    for lab in kit.lab_with_lxd("lxd", *(["zfs"] if ZFS else []), kind=VM):
        yield lab.node("node1"), lab.node("node2")


@pytest.fixture(scope="module")
def command(lxd_nodes: Sequence[Node], tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(lxd_nodes[0].site.config_path, tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="module")
def client(lxd_nodes: Sequence[Node], command: Command, tmp_path_factory: pytest.TempPathFactory) -> Client:
    site, place = lxd_nodes[0].site, tmp_path_factory.mktemp("client")
    shutil.copytree(lab_lxd.client_dir(site), place / "conf")
    shutil.copy(lab_lxd.client_program(site), place / "lxc")
    path = os.pathsep.join([str(place), str(Path(sys.executable).parent), os.environ["PATH"]])
    found = Client(place / "lxc", command.environment({"LXD_CONF": str(place / "conf"), "PATH": path}))
    done = command.run("lxd", "alias", "install", env=found.env)
    assert done.code == 0, str(done)
    assert found("remote", "switch", "node1").returncode == 0
    return found


@pytest.fixture
def counter(lxd_nodes: Sequence[Node]) -> Iterator[str]:
    """A fresh container on node1; nothing of it stays."""
    yield from kit.fresh(lxd_nodes, NAME)


def moved(command: Command) -> dict[str, Any]:
    """The report of the newest run."""
    newest = command.run("history", "--json").report["runs"][0]["id"]
    return command.run("report", newest, "--json").report


def test_plain_lxc_move_with_the_keys(
    lxd_nodes: Sequence[Node], command: Command, client: Client, counter: str
) -> None:
    """`lxc config set` three times, `lxc move c1 node2:c1`: real rounds, what was set and why they stopped is said."""
    here, there = lxd_nodes
    for key, value in KEYS.items():
        assert client("config", "set", counter, key, value).returncode == 0
    config, before = kit.config(here, counter), kit.healthy(here, counter)
    done = client("move", counter, f"node2:{counter}")
    assert done.returncode == 0, done.stdout + done.stderr
    kit.healthy(there, counter, before)
    assert kit.config(there, counter) == config and kit.status(here, counter) == ""
    report = moved(command)
    kit.check_rounds(report, 4)
    assert report["mode"] == "pre-copy" and report["stop_reason"]
    for words in (f"{KEY} is true", f"4 rounds ({KEY}.iterations", f"80 % are in sync ({KEY}.goal)"):
        assert words in done.stderr, done.stderr
    assert report["stop_reason"] in done.stdout
    assert kit.traces(lxd_nodes) == []


def test_lxc_move_with_our_options(lxd_nodes: Sequence[Node], command: Command, client: Client, counter: str) -> None:
    """The keys are unset before and after; they hold our numbers only meanwhile."""
    here, there = lxd_nodes
    before = kit.healthy(here, counter)
    done = client("move", counter, "node2:", "--incremental-memory", "--iterations", "5", "--goal", "80")
    assert done.returncode == 0, done.stdout + done.stderr
    kit.healthy(there, counter, before)
    kit.check_rounds(moved(command), 5)
    assert not any(key.startswith(KEY) for key in kit.config(there, counter))


def test_rounds_over_https_alone(lxd_nodes: Sequence[Node], command: Command, client: Client, counter: str) -> None:
    """The client's relay, which goes without ssh: real rounds, told by the daemons' events; the keys are put back."""
    here, there = lxd_nodes
    config, before = kit.config(here, counter), kit.healthy(here, counter)
    words = ("--incremental-memory", "--iterations", "4", "--goal", "80", "--mode", "relay")
    done = client("move", counter, "node2:", *words)
    assert done.returncode == 0 and "relay: this machine passes on" in done.stderr, done.stdout + done.stderr
    kit.healthy(there, counter, before, late=False)
    report = moved(command)
    kit.check_rounds(report, 4)
    assert report["stop_reason"] and "API alone" not in report["stop_reason"], report
    assert kit.config(there, counter) == config and kit.status(here, counter) == ""


@pytest.fixture(scope="module")
def pooled(lxd_nodes: Sequence[Node]) -> Iterator[Sequence[Node]]:
    """The nodes, whose pools go in the end."""
    yield lxd_nodes
    kit.delete(lxd_nodes, NAME)
    pools.become(lxd_nodes, ("", ""))


@pytest.mark.parametrize(("kinds", "rounds"), PAIRS, ids=lambda word: "-".join(word))
def test_no_write_is_lost_between_pools(
    pooled: Sequence[Node], command: Command, kinds: tuple[str, str], rounds: str
) -> None:
    """Every line and the last number of every second that it wrote to its disk is there; the keys are as before."""
    here, there = pooled
    kit.delete(pooled, NAME)
    pools.become(pooled, kinds)
    words = {KEY: "true", f"{KEY}.iterations": rounds} if rounds else {KEY: "false"}
    kit.launch(here, NAME, "-s", pools.NAME, *(word for pair in words.items() for word in ("-c", "=".join(pair))))
    config, before = kit.config(here, NAME), kit.healthy(here, NAME)
    done = command.run("move", "--json", "--", f"node1:lxd/{NAME}", "node2:", limit_s=MOVE_S)
    assert done.code == 0, str(done)
    after = kit.healthy(there, NAME, before)
    print(kinds, after, done.report["downtime_s"], done.report["total_s"], len(done.report["rounds"]))
    assert kit.config(there, NAME) == config and kit.status(here, NAME) == ""
    assert done.report["mode"] == ("pre-copy" if rounds else "stop-and-copy")
    assert kit.traces(pooled) == []


@pytest.mark.parametrize("kind", OPTIMIZED)
def test_between_two_pools_that_send_a_snapshot_it_is_refused(
    pooled: Sequence[Node], command: Command, kind: str
) -> None:
    """The daemon would send one snapshot; the container is not touched."""
    here, there = pooled
    kit.delete(pooled, NAME)
    pools.become(pooled, (kind, kind))
    kit.launch(here, NAME, "-s", pools.NAME)
    before = kit.healthy(here, NAME)
    done = command.run("move", "--json", "--", f"node1:lxd/{NAME}", "node2:")
    assert done.code == 10 and f"storage: {kind} to {kind}" in done.error, str(done)
    plan = command.run("plan", "--json", "--", f"node1:lxd/{NAME}", "node2:")
    assert [check["id"] for check in plan.report["checks"] if check["level"] == "fail"] == ["storage"], str(plan)
    kit.healthy(here, NAME, before)
    assert kit.status(there, NAME) == "" and kit.traces(pooled) == []
