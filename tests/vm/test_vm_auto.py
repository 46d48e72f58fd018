"""`auto` and `plan` between kernels that track written pages: the choice, and that what it foretells comes true."""

from __future__ import annotations

from typing import Any

import pytest
from livekit import stand
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth_lab.node import Node

MIB = 1 << 20
# Nothing ahead of the freeze and nothing behind it: what is compared is rounds against none.
PLAIN = {"REBERTH_MEMORY_AHEAD": "false", "REBERTH_LAZY_RESTORE": "false"}
ROUNDS = ("--policy", "fixed", "--iterations", "3")
MOVE_S = 400.0
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def small_pages(vm_nodes: tuple[Node, Node]) -> None:
    stand.small_pages(vm_nodes)


def plan(reberth: Command, source: str, *options: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    done = reberth.run("plan", *options, "--json", "--", source, "node2:", env=env)
    assert done.code == 0, str(done)
    kept = ("mode", "why", "measured")
    print({key: done.report[key] for key in kept})
    print({name: (one["downtime_s"], one["bytes"], one["total_s"]) for name, one in done.report["predicted"].items()})
    return done.report


@pytest.mark.sample
def test_the_choice(vm_nodes: tuple[Node, Node], works: Stand, watch: Watch, reberth: Command) -> None:
    """Of a slow writer: rounds where standing still is to be short, none where there is time."""
    node1, node2 = vm_nodes
    handle = works.raw("memory", "--mib", "32", "--rate", "2")
    source = word_of(node1, handle)
    patient = plan(reberth, source, "--max-downtime", "10s")
    assert patient["mode"] == "stop-and-copy" and "within 10 s" in patient["why"]
    hasty = plan(reberth, source, "--max-downtime", "50ms")
    assert hasty["mode"] in ("pre-copy", "hybrid") and "more than 0.05 s" in hasty["why"]
    assert 0.5 * MIB < hasty["measured"]["dirty_bytes_s"] < 8 * MIB
    words = ("move", "--mode", "auto", "--max-downtime", "50ms", "--json", "--", source, "node2:")
    done = reberth.run(*words, limit_s=MOVE_S)
    assert done.code == 0, str(done)
    print(done.report["mode"], done.report["downtime_s"], done.report["stop_reason"])
    assert done.report["mode"] in ("pre-copy", "hybrid"), str(done)
    assert done.report["stop_reason"] in ("max-downtime", "gain", "growth", "nothing-dirty", "iterations")
    healthy(node2, handle)
    assert gone(node1, handle)
    works.stop(handle)
    watch.check()


def test_rounds_that_do_not_pay(vm_nodes: tuple[Node, Node], works: Stand, watch: Watch, reberth: Command) -> None:
    """Of one that writes all its memory faster than the link carries it: the plan says so, and so it is."""
    node1, node2 = vm_nodes
    handle = works.raw("memory", "--mib", "32", "--rate", "200")
    foretold = plan(reberth, word_of(node1, handle), *ROUNDS, env=PLAIN)["predicted"]
    early, plain = foretold["pre-copy"], foretold["stop-and-copy"]
    assert early["bytes"] > 2 * plain["bytes"] and early["total_s"] > plain["total_s"]
    assert early["downtime_s"] > 0.5 * plain["downtime_s"]
    reports = []
    for here, there, mode in ((node1, node2, "pre-copy"), (node2, node1, "stop-and-copy")):
        words = ("move", "--mode", mode, *ROUNDS, "--json", "--", word_of(here, handle), f"{there.name}:")
        done = reberth.run(*words, env=PLAIN, limit_s=MOVE_S)
        assert done.code == 0, str(done)
        print(mode, done.report["downtime_s"], done.report["total_s"], done.report["bytes"])
        healthy(there, handle)
        reports.append(done.report)
    assert reports[0]["bytes"]["pages"] > 2 * reports[1]["bytes"]["pages"]
    assert reports[0]["total_s"] > reports[1]["total_s"]
    works.stop(handle)
    watch.check()
