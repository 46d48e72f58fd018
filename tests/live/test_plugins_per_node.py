"""A plugin works on the nodes where it is enabled, and is never called for another one.

Live because a plugin that must not be called would be seen in a real move.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from livekit.command import Command, with_path
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth_lab.node import Node

Settings = Callable[[Callable[[str], str]], dict[str, str]]
HERE = Path(__file__).resolve().parent


@pytest.fixture
def own(settings: Settings) -> dict[str, str]:
    """A copy of the inventory, to be changed."""
    return settings(lambda text: text)


def test_runc_disabled_on_the_target(
    works: Stand, watch: Watch, own: dict[str, str], reberth: Command, node1: Node, node2: Node
) -> None:
    handle = works.container("memory", "--mib", "8")
    running = watch.again()
    disabled = reberth.run("node", "disable", "node2", "runc", env=own)
    assert disabled.code == 0, str(disabled)
    for source in (word_of(node1, handle), f"node1:{handle.container}"):
        for command in ("plan", "move"):
            done = reberth.run(command, source, "node2:", env={**own, "REBERTH_TRACE": "1"})
            assert done.code == 14, str(done)
            for word in ("runc", "node2", "reberth node enable node2 runc"):
                assert word in done.stderr, str(done)
            # On node1 it may look for the name; what concerns node2 is not asked of it at all.
            called = set(re.findall(r"trace: reberth_(\w+)\(.*\) on runc$", done.stderr, re.M))
            assert called <= {"describe", "list", "probe"}, str(done)
            if "runc/" in source:
                assert called <= {"describe"}, str(done)
    healthy(node1, handle)
    running.check()
    listed = reberth.run("ls", "node2", "--json", env={**own, "REBERTH_TRACE": "1"})
    assert listed.code == 0, str(listed)
    assert " on runc" not in listed.stderr, str(listed)

    enabled = reberth.run("node", "enable", "node2", "runc", env=own)
    assert enabled.code == 0, str(enabled)
    done = reberth.move(word_of(node1, handle), "node2:", env=own)
    assert done.code == 0, str(done)
    healthy(node2, handle)
    works.stop(handle)
    watch.check()


def spied(log: Path) -> list[tuple[str, ...]]:
    """The calls so far: hook and nodes."""
    return [tuple(line.split()) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def test_a_spy_is_called_only_where_it_is_enabled(
    works: Stand, watch: Watch, own: dict[str, str], reberth: Command, tmp_path: Path, node1: Node, node2: Node
) -> None:
    log = tmp_path / "calls"
    env = {**own, **with_path(HERE / "saboteur"), "SPY_LOG": str(log)}
    handle = works.raw("memory", "--mib", "8")

    # Enabled nowhere: whatever is done, it is not called.
    for words in (["ls"], ["check", "node1", "node2"], ["plan", word_of(node1, handle), "node2:"]):
        done = reberth.run(*words, env=env)
        assert done.code == 0, str(done)
    done = reberth.move(word_of(node1, handle), "node2:", env=env)
    assert done.code == 0, str(done)
    assert gone(node1, handle)
    refused = reberth.move("node1:spy/ghost", "node2:", env=env)
    assert refused.code == 14, str(refused)
    assert "reberth node enable node1 spy" in refused.error
    assert spied(log) == []

    # Enabled on node1 alone: it answers for node1, and nothing that concerns node2 reaches it.
    enabled = reberth.run("node", "enable", "node1", "spy", env=env)
    assert enabled.code == 0, str(enabled)
    listed = reberth.run("ls", "--json", env=env)
    assert ("node1", "ghost") in {(one["node"], one["name"]) for one in listed.report["workloads"]}
    refused = reberth.move("node1:ghost", "node2:", env=env)
    assert refused.code == 14, str(refused)
    for word in ("spy", "node2", "reberth node enable node2 spy"):
        assert word in refused.error
    back = reberth.move(word_of(node2, handle), "node1:", env=env)
    assert back.code == 0, str(back)
    assert spied(log), "the spy was never asked where it is enabled"
    assert {node for call in spied(log) for node in call[1:]} == {"node1"}

    # Enabled on both, it is asked about both: so the spy does see what it would see.
    reberth.run("node", "enable", "node2", "spy", env=env)
    refused = reberth.move("node1:ghost", "node2:", env=env)
    assert refused.code == 10, str(refused)
    assert ("survey", "node1", "node2") in spied(log)
    works.stop(handle)
    watch.check()


def test_criu_disabled_on_the_source(
    works: Stand, watch: Watch, own: dict[str, str], reberth: Command, node1: Node
) -> None:
    handle = works.raw("memory", "--mib", "8")
    running = watch.again()
    reberth.run("node", "disable", "node1", "criu", env=own)
    done = reberth.move(word_of(node1, handle), "node2:", env=own)
    assert done.code == 14, str(done)
    assert "reberth node enable node1 criu" in done.error
    healthy(node1, handle)
    running.check()
    works.stop(handle)
    watch.check()
