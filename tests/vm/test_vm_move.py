"""Between two kernels that were started apart: other users' processes and containers arrive whole."""

from __future__ import annotations

import re

import pytest
from livekit.cases import Case
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver
from workloads.driver import Handle

from reberth_lab.node import Node

UID = 1000
RAW = [
    Case("memory", ("--mib", "32", "--rate", "1"), "byte", "memory differs"),
    Case("threads", ("--count", "8"), "sum", "running sum"),  # a monotonic clock that went back would show
]


def move(handle: Handle, reberth: Command, here: Node, there: Node) -> None:
    """There and whole, here and gone. Times are not compared: an emulated node is too slow for it."""
    healthy(here, handle)
    done = reberth.move(word_of(here, handle), f"{there.name}:")
    assert done.code == 0, str(done)
    assert (done.report["outcome"], done.report["owner"]) == ("moved", "target"), str(done)
    healthy(there, handle)
    assert gone(here, handle)


def uptime_s(node: Node) -> float:
    """How long the node's kernel runs."""
    return float(node.read("/proc/uptime").split()[0])


@pytest.mark.sample
def test_the_kernels_are_their_own_and_know_soft_dirty(vm_nodes: tuple[Node, Node]) -> None:
    boots = {node.read("/proc/sys/kernel/random/boot_id") for node in vm_nodes}
    assert len(boots) == 2
    for node in vm_nodes:
        for feature in ("mem_dirty_track", "uffd-noncoop"):
            checked = node.run(["criu", "check", "--feature", feature], check=False)
            assert checked.returncode == 0, checked.stdout + checked.stderr
        assert re.match(r"6\.\d+\.\d+.*deb13", node.run(["uname", "-r"]).stdout)


def test_the_plan_tells_how_far_the_clocks_are_apart(
    vm_nodes: tuple[Node, Node], works: Stand, reberth: Command
) -> None:
    node1, node2 = vm_nodes
    handle = works.raw("memory", "--mib", "1")
    first_s, other_s, second_s = uptime_s(node1), uptime_s(node2), uptime_s(node1)
    done = reberth.run("plan", "--json", "--", word_of(node1, handle), f"{node2.name}:")
    (reason,) = [check["reason"] for check in done.report["checks"] if check["id"] == "uptime"]
    found = re.search(
        r"the target's uptime is ([+-][0-9.]+) s from the source's; the clocks of the workload go", reason
    )
    assert found, reason
    slack_s = 2.0  # one question to an emulated node may take as long
    assert other_s - second_s - slack_s <= float(found[1]) <= other_s - first_s + slack_s
    assert abs(float(found[1])) > 1, "the nodes were not started apart"


@pytest.mark.parametrize("case", RAW, ids=[case.id for case in RAW])
def test_a_process_of_another_user(
    case: Case, vm_nodes: tuple[Node, Node], works: Stand, watch: Watch, reberth: Command
) -> None:
    node1, node2 = vm_nodes
    handle = works.raw(case.kind, *case.words, uid=UID)
    assert node1.run(["stat", "-c", "%u", f"/proc/{handle.pid}"]).stdout.strip() == str(UID)
    move(handle, reberth, node1, node2)
    assert node2.run(["stat", "-c", "%u", f"/proc/{handle.pid}"]).stdout.strip() == str(UID)
    watch.check(node1.name)
    driver.plant(node2, handle, case.plant)
    damaged = driver.verify(node2, handle)
    assert driver.find_problem(damaged, case.problem), f"{case.plant} was not noticed"
    works.stop(handle)
    watch.check()


def test_a_container_there_and_back(vm_nodes: tuple[Node, Node], works: Stand, watch: Watch, reberth: Command) -> None:
    node1, node2 = vm_nodes
    handle = works.container("memory", "--mib", "32", "--rate", "1")
    move(handle, reberth, node1, node2)
    move(handle, reberth, node2, node1)
    driver.plant(node1, handle, "stale-page")
    assert driver.find_problem(driver.verify(node1, handle), "memory differs")
    works.stop(handle)
    watch.check()
