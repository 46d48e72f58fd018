"""LXD, near-live: two real daemons; files while it runs, a stop, the rest, a start, and nothing of criu.

Live because LXD stops, copies and starts real containers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from livekit import lxd as kit
from livekit import near
from livekit.command import Command, Done, journal_of
from livekit.near import NEAR

from reberth_lab import lxd as lab_lxd
from reberth_lab.node import Node

pytestmark = pytest.mark.timeout(300)
NAME = "c1"


@pytest.fixture(scope="module")
def nodes(lxd_nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    """Two nodes with LXD."""
    return lxd_nodes


@pytest.fixture(scope="module")
def command(nodes: Sequence[Node], tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(nodes[0].site.config_path, tmp_path_factory.mktemp("state"))


@pytest.fixture
def counter(nodes: Sequence[Node]) -> Iterator[str]:
    """A fresh container on node1, which starts with its daemon; nothing of it stays."""
    kit.delete(nodes, NAME)
    near.counter(nodes, NAME)
    yield NAME
    kit.delete(nodes, NAME)


def phases(done: Done) -> list[str]:
    return [phase["name"] for phase in done.report["phases"]]


def test_no_write_is_lost(nodes: Sequence[Node], command: Command, counter: str) -> None:
    """What it wrote last is there, and so is what rsync would take for unchanged; the old one is kept, stopped."""
    here, there = nodes
    config, before = kit.config(here, counter), kit.healthy(here, counter)
    near.watch(nodes, counter)
    done = command.move(f"node1:{counter}", "node2:", *NEAR, "--keep-source")
    assert done.code == 0 and done.report["mode"] == "near-live", str(done)
    assert phases(done) == ["initial-sync", "final-dump", "final-sync", "restore", "commit"]
    assert 0 < done.report["downtime_s"] < done.report["total_s"]
    near.answering(there, counter)
    assert kit.config(there, counter) == config
    near.check(nodes, counter, before)
    kept = kit.state(here, counter)
    assert kept["status"] == "Stopped" and kept["config"]["boot.autostart"] == "false"
    assert kit.traces(nodes) == []


def test_a_start_that_fails_brings_the_source_back(nodes: Sequence[Node], command: Command, counter: str) -> None:
    here, there = nodes
    config = kit.config(here, counter)
    there.write(near.GATE, "#!/bin/sh\nexit 1\n", 0o755)
    done = command.move(f"node1:{counter}", "node2:", *NEAR)
    assert (done.code, done.report["outcome"]) == (20, "rolled-back"), str(done)
    assert "could not be started" in done.error
    alone(nodes, counter, config)


def alone(nodes: Sequence[Node], name: str, config: dict[str, str]) -> None:
    """It runs on the first of these, its files and configuration as before, and the other one knows nothing of it."""
    near.answering(nodes[0], name)
    assert kit.config(nodes[0], name) == config and near.probe(nodes[0], name) == "once"
    assert kit.status(nodes[1], name) == ""
    deadline = time.monotonic() + 30
    while kit.traces(nodes):
        assert time.monotonic() < deadline, kit.traces(nodes)
        time.sleep(0.2)


@contextlib.contextmanager
def without_criu(node: Node) -> Iterator[None]:
    """No criu on the daemon's PATH."""
    move = 'for p in /usr/local/sbin/criu /usr/sbin/criu; do if [ -e "$p$1" ]; then mv "$p$1" "$p$2"; fi; done'
    node.run(["sh", "-c", move, "sh", "", ".hidden"])
    try:
        yield
    finally:
        node.run(["sh", "-c", move, "sh", ".hidden", ""])


def test_a_daemon_without_criu(nodes: Sequence[Node], command: Command, counter: str) -> None:
    """No other mode moves it, and the refusal names this one; then the old one is gone."""
    here, there = nodes
    config, before = kit.config(here, counter), kit.healthy(here, counter)
    with without_criu(there):
        refused = command.move(f"node1:lxd/{counter}", "node2:", "--mode", "auto")
        assert refused.code == 10 and "no criu" in refused.error and "--mode near-live" in refused.error, str(refused)
        kit.healthy(here, counter, before)
        done = command.move(f"node1:lxd/{counter}", "node2:", *NEAR)
    assert done.code == 0, str(done)
    alone((there, here), counter, config)
    assert any("memory" in warning for warning in done.report["warnings"])


def test_over_https_alone(nodes: Sequence[Node], tmp_path: Path, counter: str) -> None:
    """Files are sent while it is stopped, since nobody could make up for what rsync overlooks."""
    here, there = nodes
    shutil.copytree(lab_lxd.client_dir(here.site), tmp_path / "conf")
    places = [str(lab_lxd.client_program(here.site).parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    client = {"PATH": os.pathsep.join(places), "LXD_CONF": str(tmp_path / "conf")}
    config = kit.config(here, counter)
    (tmp_path / "config.toml").touch()
    command = Command(tmp_path / "config.toml", tmp_path / "state")
    words = ("move", "--json", "--remotes", "lxc", *NEAR, "--", f"node1:{counter}", "node2:")
    done = command.run(*words, env=client)
    assert done.code == 0 and "initial-sync" not in phases(done), str(done)
    alone((there, here), counter, config)


def noted(key: str) -> Callable[[dict[str, object]], bool]:
    return lambda record: record["event"] == "note" and record.get("key") == key


# From "landed" on the target has it; before, the source.
MOMENTS = ["created", "copied", "stopping", "stopped", "starting", "running_ns", "landed"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_controller_dies(nodes: Sequence[Node], command: Command, counter: str, moment: str) -> None:
    """`recover` starts it where it belongs; nobody else does."""
    config = kit.config(nodes[0], counter)
    place = command.state / "reberth/runs"
    known = {path.name for path in place.glob("*")}
    process = command.start("move", "--json", *NEAR, "--", f"node1:{counter}", "node2:")
    run, deadline = "", time.monotonic() + 60
    while not (run and any(noted(moment)(record) for record in journal_of(command.state, run))):
        assert process.poll() is None and time.monotonic() < deadline, "the move never came so far"
        run = next((p.name for p in place.glob("*") if p.name not in known and (p / "journal.jsonl").exists()), "")
        time.sleep(0.01)
    process.kill()
    process.communicate()
    again = command.run("recover", "--json")
    assert again.code == 0, str(again)
    home = nodes[again.report["runs"][0]["outcome"] == "moved"]
    print(f"{moment}: {again.report['runs'][0]['outcome']}")
    assert home is nodes[1] if moment == "landed" else home is nodes[0] or moment in ("starting", "running_ns")
    alone((home, nodes[home is nodes[0]]), counter, config)
    assert command.run("status", "--json").report.get("runs") == []


if os.environ.get("REBERTH_LXD_FAULTS", "") != "all":
    del test_the_controller_dies  # made by hand: it takes minutes
