"""A post-copy breaks off while pages are missing: the copy never reads a wrong byte, the source waits and is whole.

Live because a page that never comes stops a real process in a real fault.
"""

from __future__ import annotations

import os
import random
import signal

import pytest
from faults import postcopy
from faults.run import Field
from livekit.command import Command
from livekit.filling import Filling, begun, memory_base, memory_there, state_of, wait_for_pages
from livekit.rollback import check_source
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy
from workloads import driver
from workloads.driver import Handle

from reberth_lab.lab import Lab
from reberth_lab.node import Node

MIB = 32
CRAWL_BIT_S = 10_000_000  # so that a machine under load still strikes before the last page
SEED = int(os.environ.get("REBERTH_FAULT_SEED", "20261128"))
SLOW = ("link-15s", "link-gone")  # only in `make soak`
# A local user at the port that CRIU listens on in its own network namespace: refused each time.
KNOCK = """
import os, socket
os.setuid(65534)
refused = 0
for _ in range(100):
    try:
        socket.create_connection(("127.0.0.1", 9876), 1)
    except ConnectionRefusedError:
        refused += 1
print(refused)
"""
WORDS = ("memory", "--mib", str(MIB), "--rate", "0.5")


def start(kind: str, works: Stand) -> Handle:
    return works.raw(*WORDS) if kind == "raw" else works.container(*WORDS)


def kill_daemon(filling: Filling, lab: Lab) -> None:
    filling.target.run(["pkill", "-KILL", "-f", "--", "^/usr/sbin/criu lazy-pages"])


def kill_server(filling: Filling, lab: Lab) -> None:
    filling.source.run(["pkill", "-KILL", "-x", "criu"])


def kill_helper_of_target(filling: Filling, lab: Lab) -> None:
    filling.target.run(["kill", "-KILL", str(filling.helper(filling.target))])


def kill_helper_of_source(filling: Filling, lab: Lab) -> None:
    filling.source.run(["kill", "-KILL", str(filling.helper(filling.source))])


# A link that is cut for good is in `make soak` (`link-gone` of faults/postcopy.py): TCP needs minutes to hear of it.
FAULTS = [kill_daemon, kill_server, kill_helper_of_target, kill_helper_of_source]
CASES = [("raw", fault) for fault in FAULTS] + [("runc", kill_daemon), ("runc", kill_server)]


def check_held(filling: Filling, target: Node, pid: int, source_pid: int, base: int) -> None:
    """Nobody runs: the copy is frozen with right pages only, and the source is frozen with all of them."""
    assert state_of(target, pid) == "frozen"
    assert state_of(filling.source, source_pid) == "frozen"
    there = memory_there(target, pid, base, MIB)
    assert 0 < there["present"] < there["pages"], there
    assert not there["wrong"], there
    whole = memory_there(filling.source, source_pid, base, MIB)
    assert whole["present"] == whole["pages"] and not whole["wrong"], whole


@pytest.mark.parametrize(("kind", "fault"), CASES, ids=[f"{kind}-{fault.__name__}" for kind, fault in CASES])
def test_it_breaks_off(
    kind: str, fault: object, lab: Lab, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    handle = start(kind, works)
    running = watch.again()
    pids = [handle.pid or driver.container_pid(node1, str(handle.container))]
    base = memory_base(node1, pids[0], MIB)
    with begun(lab, reberth, handle, (node1, node2), rate_bit_s=CRAWL_BIT_S) as filling:
        pids.append(handle.pid or driver.container_pid(node2, str(handle.container)))
        wait_for_pages(node2, pids[1], base, MIB)
        fault(filling, lab)  # type: ignore[operator]
        done = filling.finish()
        assert done.code == 50, str(done)
        assert (done.report["outcome"], done.report["owner"]) == ("held", "nobody"), str(done)
    check_held(filling, node2, pids[1], pids[0], base)
    again = filling.recover()
    assert again.code == 50, str(again)
    check_held(filling, node2, pids[1], pids[0], base)
    back = filling.recover("--rollback")
    assert back.code == 0, str(back)
    check_source(handle, node1, node2, running)
    works.stop(handle)


def test_the_check_of_pages_sees_zeros(works: Stand, node1: Node) -> None:
    """The twin: one page of zeros where none belongs is found."""
    handle = works.raw("memory", "--mib", str(MIB), "--rate", "0.5")
    base = memory_base(node1, handle.pid, MIB)
    assert memory_there(node1, handle.pid, base, MIB)["wrong"] == []
    driver.plant(node1, handle, "zero-page")
    assert len(memory_there(node1, handle.pid, base, MIB)["wrong"]) == 1


def test_back_at_once_on_request(
    lab: Lab, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    handle = start("raw", works)
    running = watch.again()
    with begun(lab, reberth, handle, (node1, node2), "--on-failure", "rollback") as filling:
        kill_daemon(filling, lab)
        done = filling.finish()
    assert done.code == 20, str(done)
    check_source(handle, node1, node2, running)
    works.stop(handle)


def test_the_controller_is_killed(
    lab: Lab, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    """The pages go on without it, and the target finishes alone; the source waits for somebody who tells it."""
    handle = start("raw", works)
    with begun(lab, reberth, handle, (node1, node2)) as filling:
        os.kill(filling.process.pid, signal.SIGKILL)
        filling.process.communicate()
        filling.wait(node2, "filled")
    assert state_of(node1, handle.pid) == "frozen"
    done = filling.recover()
    assert done.code == 0, str(done)
    healthy(node2, handle)
    assert gone(node1, handle)
    works.stop(handle)
    watch.check()


def test_the_copy_ends_by_itself(
    lab: Lab, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    """It was the workload, and it is over: no page is needed any more, and the source is not held for it."""
    handle = start("raw", works)
    base = memory_base(node1, handle.pid, MIB)
    with begun(lab, reberth, handle, (node1, node2), rate_bit_s=CRAWL_BIT_S) as filling:
        wait_for_pages(node2, handle.pid, base, MIB)
        node2.run(["kill", "-KILL", str(handle.pid)])
        done = filling.finish()
    assert (done.code, done.report["outcome"]) == (0, "moved"), str(done)
    assert gone(node1, handle) and gone(node2, handle)
    works.stop(handle)
    watch.check()


def test_nothing_listens(lab: Lab, works: Stand, reberth: Command, node1: Node, node2: Node) -> None:
    """While pages flow, no port is open on either node that was not open before: no stranger can read a page."""
    handle = start("runc", works)
    ports = [node.run(["ss", "-Hltn"]).stdout for node in (node1, node2)]
    with begun(lab, reberth, handle, (node1, node2)) as filling:
        assert [node.run(["ss", "-Hltn"]).stdout for node in (node1, node2)] == ports
        for node in (node1, node2):
            assert node.run(["python3", "-I", "-c", KNOCK]).stdout.strip() == "100"
        done = filling.finish()
    assert done.code == 0, str(done)
    healthy(node2, handle)
    works.stop(handle)


@pytest.mark.parametrize("backend", ["criu", "runc"])
def test_a_break_at_a_random_moment(backend: str, lab: Lab, reberth: Command) -> None:
    """A seeded sample of what `make soak` does; one that found nothing to strike is made again."""
    chance = random.Random(f"{SEED}/{backend}")
    fault = chance.choice([name for name in postcopy.CODES if name not in SLOW])
    first = chance.randrange(50) * 2 + (backend == "runc")
    for number in range(first, first + 10, 2):
        one = postcopy.made(Field(lab, reberth, chance), postcopy.chosen(fault, number, SEED), {})
        print(f"REBERTH_FAULT_SEED={SEED}: {postcopy.told(one)}")
        assert one.problems == [], f"REBERTH_FAULT_SEED={SEED}"
        if one.hit:
            return
    pytest.fail(f"{fault} found nothing to strike")
