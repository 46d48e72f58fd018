"""Rounds by page servers between kernels that track written pages: each straight into the target's images."""

from __future__ import annotations

from pathlib import Path

from livekit import stand
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver

from reberth_lab.node import Node

MIB = 32
THREE = ("--mode", "pre-copy", "--policy", "fixed", "--iterations", "3")


def test_rounds_by_page_servers(
    vm_nodes: tuple[Node, Node], works: Stand, watch: Watch, reberth: Command, tmp_path: Path
) -> None:
    """The source keeps no page and no table of pages: that later rounds skip pages is the target's parent chain."""
    node1, node2 = vm_nodes
    stand.small_pages(vm_nodes)
    listed = reberth.config.read_text("utf-8").replace('transports = ["ssh"]', 'transports = ["page-server", "ssh"]')
    (tmp_path / "config.toml").write_text(listed, "utf-8")
    handle = works.raw("memory", "--mib", str(MIB), "--rate", "1")
    env = {"REBERTH_CONFIG": str(tmp_path / "config.toml")}
    done = reberth.move(word_of(node1, handle), "node2:", *THREE, env=env)
    assert done.code == 0, str(done)
    print(*done.report["rounds"], done.report["downtime_s"])
    assert done.report["transports"] == ["page-server", "ssh"], str(done)
    rounds = done.report["rounds"]
    assert len(rounds) == 4 and rounds[0]["pages_written"] >= MIB * 256, rounds
    assert rounds[1]["pages_skipped_parent"] > 0.5 * MIB * 256, rounds
    assert all(later["bytes"] < 0.5 * rounds[0]["bytes"] for later in rounds[1:]), rounds
    healthy(node2, handle)
    assert gone(node1, handle)
    driver.plant(node2, handle, "stale-page")
    assert driver.find_problem(driver.verify(node2, handle), "memory differs"), "a stale page was not noticed"
    works.stop(handle)
    watch.check()
