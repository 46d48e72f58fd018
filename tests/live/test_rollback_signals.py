"""^C, SIGTERM and `reberth abort` in each phase: the source runs on.

Live because a signal meets real criu, runc and ssh processes in each phase.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import pytest
from livekit.command import Command
from livekit.rollback import check_rolled_back, check_source, move_at_last
from livekit.snapshot import Watch
from livekit.stand import Stand, healthy, word_of

from reberth_lab.node import Node

Sabotage = Callable[..., Mapping[str, str]]
# (workload, hook that is struck, seconds after its begin): with a delay the signal comes while the tools work.
MOMENTS = [
    ("raw", "prepare", 0.0),
    ("raw", "checkpoint", 0.0),
    ("raw", "checkpoint", 0.04),
    ("raw", "transfer-images", 0.15),
    ("raw", "restore", 0.0),
    ("raw", "restore", 0.02),
    ("runc", "prepare", 0.0),
    ("runc", "sync", 0.0),
    ("runc", "transfer-filesystem", 0.05),
    ("runc", "checkpoint", 0.06),
    ("runc", "transfer-images", 0.1),
    ("runc", "transfer-filesystem-delta", 0.0),
    ("runc", "restore", 0.05),
]
# Where the report says that it was heard; the choice of what travels first belongs to no phase of its own.
PHASES = {
    "prepare": ("prepare",),
    "sync": ("prepare", "initial-sync"),
    "checkpoint": ("final-dump",),
    "transfer-images": ("final-transfer",),
    "transfer-filesystem-delta": ("final-sync",),
    "restore": ("restore",),
}


@pytest.mark.parametrize(("kind", "hook", "delay_s"), MOMENTS, ids=[f"{k}-{h}-{d:g}" for k, h, d in MOMENTS])
def test_interrupt(
    kind: str,
    hook: str,
    delay_s: float,
    works: Stand,
    watch: Watch,
    sabotage: Sabotage,
    reberth: Command,
    node1: Node,
    node2: Node,
) -> None:
    handle = works.raw("memory", "--mib", "96") if kind == "raw" else works.container("fswriter")
    running = watch.again()
    env = sabotage(hook, ["kill", "-INT", "@pid@"], delay_s)
    done = reberth.move(word_of(node1, handle), "node2:", env=env)
    check_rolled_back(done)
    assert done.report["error"]["code"] == "interrupted", str(done)
    if not delay_s:
        assert done.report["error"]["phase"] in PHASES[hook], str(done)
    check_source(handle, node1, node2, running)
    move_at_last(handle, works, watch, reberth, node1, node2)


@pytest.mark.parametrize("hook", ["prepare", "checkpoint", "transfer-images", "restore"])
def test_abort_by_another_process(
    hook: str,
    works: Stand,
    watch: Watch,
    sabotage: Sabotage,
    reberth: Command,
    node1: Node,
    node2: Node,
) -> None:
    handle = works.raw("memory", "--mib", "16")
    running = watch.again()
    env = sabotage(hook, [sys.executable, "-m", "reberth", "abort", "@id@"])
    done = reberth.move(word_of(node1, handle), "node2:", env=env)
    check_rolled_back(done)
    check_source(handle, node1, node2, running)
    again = reberth.run("abort", done.report["id"])
    assert again.code == 2, str(again)
    move_at_last(handle, works, watch, reberth, node1, node2)


def test_interrupt_after_the_decision_changes_nothing(
    works: Stand, watch: Watch, sabotage: Sabotage, reberth: Command, node1: Node, node2: Node
) -> None:
    handle = works.raw("memory", "--mib", "16")
    done = reberth.move(word_of(node1, handle), "node2:", env=sabotage("commit", ["kill", "-INT", "@pid@"]))
    assert done.code == 0, str(done)
    assert done.report["outcome"] == "moved"
    healthy(node2, handle)
    works.stop(handle)
    watch.check()


def test_a_time_limit(
    works: Stand, watch: Watch, sabotage: Sabotage, reberth: Command, node1: Node, node2: Node
) -> None:
    handle = works.raw("memory", "--mib", "16")
    running = watch.again()
    env = sabotage("transfer-images", ["sleep", "5"])
    done = reberth.move(word_of(node1, handle), "node2:", "--timeout", "3s", env=env)
    check_rolled_back(done, 124)
    check_source(handle, node1, node2, running)
    move_at_last(handle, works, watch, reberth, node1, node2)
