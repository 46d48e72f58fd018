"""Memory by criu's page servers: straight into the target's images, whole or not at all, and nobody else's.

Live because criu's own page server sends the memory.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager

import pytest
from livekit.arrival import check_twin
from livekit.cases import Case
from livekit.command import Command
from livekit.rollback import check_rolled_back, check_source, move_at_last
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads.driver import Handle

from reberth_lab.lab import Lab
from reberth_lab.node import Node

MIB = 64
PAGED = ("--mode", "stop-and-copy")


def listed(text: str) -> str:
    """The inventory with the transport before the other one on both nodes."""
    return text.replace('transports = ["ssh"]', 'transports = ["page-server", "ssh"]')


def start(kind: str, works: Stand) -> Handle:
    words = ("memory", "--mib", str(MIB), "--rate", "1")
    return works.raw(*words) if kind == "criu" else works.container(*words)


@pytest.mark.parametrize(("kind", "direct"), [("criu", "true"), ("runc", "true"), ("runc", "false")])
def test_every_page_arrives(
    kind: str, direct: str, works: Stand, watch: Watch, reberth: Command, settings, node1: Node, node2: Node
) -> None:
    env = settings(lambda text: listed(text).replace("direct = true", f"direct = {direct}"))
    handle = start(kind, works)
    healthy(node1, handle)
    done = reberth.move(word_of(node1, handle), "node2:", *PAGED, env=env)
    assert done.code == 0, str(done)
    assert done.report["transports"] == ["page-server", "ssh"], str(done)
    assert done.report["bytes"]["pages"] >= MIB << 20, str(done)
    assert not done.report["bytes"]["memory"], str(done)
    healthy(node2, handle)
    assert gone(node1, handle)
    check_twin(node2, handle, Case("memory", (), "stale-page", "memory differs"))
    works.stop(handle)
    watch.check()


SLOW_BIT_S = 40_000_000
LIMIT_S = 40.0
COUNT = "cat /dev/shm/reberth-*-images-*/pages-*.img 2>/dev/null | wc -c"


def begun_bytes(node2: Node, least: int, process) -> None:
    """Wait until the page server on the target has written so many bytes, while the dump goes on."""
    end_s = time.monotonic() + LIMIT_S
    while int(node2.run(["sh", "-c", COUNT]).stdout) < least:
        assert process.poll() is None, "the move has ended"
        assert time.monotonic() < end_s, "no page came"
        time.sleep(0.05)


@contextmanager
def dumping(lab: Lab, reberth: Command, env, handle: Handle, node1: Node, node2: Node):
    """A move over a slow link that is seen in the middle of its pages."""
    lab.tbf(node1.name, SLOW_BIT_S)
    process = reberth.start("move", *PAGED, "--json", "--", word_of(node1, handle), f"{node2.name}:", env=env)
    try:
        begun_bytes(node2, 4 << 20, process)
        yield process
    finally:
        lab.tbf(node1.name, None)
        lab.link_up(node2.name)
        if process.poll() is None:
            process.kill()
            process.communicate()


def kill_page_server(lab: Lab, node1: Node, node2: Node) -> None:
    node2.run(["pkill", "-KILL", "-f", "--", "^/usr/sbin/criu page-server"])


def kill_dump(lab: Lab, node1: Node, node2: Node) -> None:
    node1.run(["pkill", "-KILL", "-x", "criu"])


def kill_helper_of_target(lab: Lab, node1: Node, node2: Node) -> None:
    """The one that has the page server."""
    said = node2.run(["pgrep", "-f", "--", "^/usr/sbin/criu page-server"]).stdout.split()[0]
    parent = node2.run(["ps", "-o", "ppid=", "-p", said]).stdout.strip()
    node2.run(["kill", "-KILL", parent])


def cut_the_target(lab: Lab, node1: Node, node2: Node) -> None:
    lab.link_down(node2.name)


FAULTS = [kill_page_server, kill_dump, kill_helper_of_target, cut_the_target]
CASES = [("criu", fault) for fault in FAULTS] + [("runc", kill_page_server)]


@pytest.mark.parametrize(("kind", "fault"), CASES, ids=[f"{kind}-{fault.__name__}" for kind, fault in CASES])
def test_it_breaks_off_and_the_source_runs(
    kind: str, fault, lab: Lab, works: Stand, watch: Watch, reberth: Command, settings, node1: Node, node2: Node
) -> None:
    env = settings(listed)
    handle = start(kind, works)
    running = watch.again()
    with dumping(lab, reberth, env, handle, node1, node2) as process:
        fault(lab, node1, node2)
        if fault is cut_the_target:
            healthy(node1, handle)  # while nobody knows what became of the target
            lab.link_up(node2.name)
        done = reberth.finish(process)
    check_rolled_back(done)
    check_source(handle, node1, node2, running)
    works.stop(handle)
    watch.check()


def test_the_controller_is_killed(
    lab: Lab, works: Stand, watch: Watch, reberth: Command, settings, node1: Node, node2: Node
) -> None:
    """Both nodes end the flow by themselves, and the source runs."""
    handle = start("criu", works)
    running = watch.again()
    known = {path.name for path in reberth.state.glob("reberth/runs/*")}
    with dumping(lab, reberth, settings(listed), handle, node1, node2) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    reberth.ids += [path.name for path in reberth.state.glob("reberth/runs/*") if path.name not in known]
    healthy(node1, handle)
    assert reberth.run("recover", reberth.ids[-1], "--json").code == 0
    check_source(handle, node1, node2, running)
    move_at_last(handle, works, watch, reberth, node1, node2)


def test_the_memory_of_the_target_is_full(
    lab: Lab, works: Stand, watch: Watch, reberth: Command, settings, node1: Node, node2: Node
) -> None:
    handle = start("criu", works)
    running = watch.again()
    with dumping(lab, reberth, settings(listed), handle, node1, node2) as process:
        node2.run(["mount", "-o", "remount,size=8m", "/dev/shm"])
        done = reberth.finish(process)
    node2.run(["mount", "-o", "remount,size=6291456k", "/dev/shm"])
    check_rolled_back(done)
    assert "No space left" in str(done), str(done)  # criu's own words, from the other node
    check_source(handle, node1, node2, running)
    works.stop(handle)
    watch.check()


@pytest.mark.parametrize("shared", [False, True], ids=["own network", "the node's network"])
def test_nothing_listens_while_pages_flow(
    shared: bool, lab: Lab, works: Stand, watch: Watch, reberth: Command, settings, node1: Node, node2: Node
) -> None:
    """Neither criu nor the helper: the port under runc is closed again when its criu has come (test_page_flow.py)."""
    handle = works.container("memory", "--mib", str(MIB), "--rate", "1", host_net=shared)
    before = [node.run(["ss", "-Hltn"]).stdout for node in (node1, node2)]
    with dumping(lab, reberth, settings(listed), handle, node1, node2) as process:
        assert [node.run(["ss", "-Hltn"]).stdout for node in (node1, node2)] == before
        lab.tbf(node1.name, None)
        done = reberth.finish(process)
    assert done.code == 0, str(done)
    healthy(node2, handle)
    assert gone(node1, handle)
    works.stop(handle)
    watch.check()
