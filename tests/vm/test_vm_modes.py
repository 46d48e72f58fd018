"""Rounds of memory between kernels that track written pages: falling bytes, a chain that holds, every byte right."""

from __future__ import annotations

from pathlib import Path

import pytest
from livekit.command import Command, Done
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver

from reberth_lab.node import Node

MIB = 64
WORDS = ("memory", "--mib", str(MIB), "--rate", "1")


@pytest.fixture(autouse=True)
def small_pages(vm_nodes: tuple[Node, Node]) -> None:
    """With transparent huge pages one written byte makes 2 MiB dirty, and no round is smaller than the first."""
    for node in vm_nodes:
        node.run(["sh", "-c", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"])


def check_rounds(done: Done, pages_of_all: int) -> None:
    """Three rounds while it runs and a last one: all of it, then little, and the chain of images was used."""
    rounds = done.report["rounds"]
    assert len(rounds) == 4, str(done)
    assert rounds[0]["pages_written"] >= pages_of_all, rounds
    assert rounds[1]["pages_skipped_parent"] > 0.5 * pages_of_all, rounds
    for later in rounds[1:3]:
        assert later["bytes"] < 0.5 * rounds[0]["bytes"], rounds
    assert rounds[3]["bytes"] < 0.5 * rounds[0]["bytes"], rounds
    assert done.report["stop_reason"] == "iterations", str(done)


CASES = [(k, m, "ssh") for m in ("pre-copy", "hybrid") for k in ("criu", "runc")]
CASES += [(kind, "pre-copy", "page-server") for kind in ("criu", "runc")]


@pytest.mark.parametrize(("kind", "mode", "by"), CASES)
def test_rounds(
    kind: str,
    mode: str,
    by: str,
    vm_nodes: tuple[Node, Node],
    works: Stand,
    watch: Watch,
    reberth: Command,
    tmp_path: Path,
) -> None:
    node1, node2 = vm_nodes
    handle = works.raw(*WORDS) if kind == "criu" else works.container(*WORDS)
    healthy(node1, handle)
    options = ("--mode", mode, "--policy", "fixed", "--iterations", "3")
    listed = reberth.config.read_text("utf-8").replace('transports = ["ssh"]', 'transports = ["page-server", "ssh"]')
    (tmp_path / "config.toml").write_text(listed, "utf-8")
    env = {"REBERTH_CONFIG": str(tmp_path / "config.toml")}
    done = reberth.move(word_of(node1, handle), "node2:", *options, env=env if by == "page-server" else None)
    assert done.code == 0, str(done)
    assert (done.report["outcome"], done.report["mode"]) == ("moved", mode), str(done)
    assert by in done.report["transports"], str(done)
    print(
        [
            {k: r[k] for k in ("bytes", "seconds", "pages_written", "pages_skipped_parent", "pages_lazy")}
            for r in done.report["rounds"]
        ],
        done.report["downtime_s"],
        done.report["bytes"],
    )
    healthy(node2, handle)
    assert gone(node1, handle)
    check_rounds(done, MIB * 256)
    watch.check(node1.name)
    driver.plant(node2, handle, "stale-page")
    assert driver.find_problem(driver.verify(node2, handle), "memory differs"), "a stale page was not noticed"
    works.stop(handle)
    watch.check()
