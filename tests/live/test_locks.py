"""Two moves at once on one node, each with connections to keep: neither takes the other's network lock along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.run import changed_code
from livekit.command import PLAIN, Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth_lab.node import Node

# Dumps begin together: when both have looked which locks there are, and neither has made its own.
TOGETHER = """#!/bin/sh
if [ "$1" = dump ]; then
  : > "/run/together/$$"
  tries=0
  until [ "$(ls /run/together | wc -l)" -ge 2 ] || [ $((tries += 1)) -gt 150 ]; do sleep 0.05; done
fi
exec /usr/sbin/criu "$@"
"""
NEWEST = [("node/source.py", "netlock.of_images(work, netlock.tables() - before)", "netlock.tables() - before")]


@pytest.fixture
def together(node1: Node) -> Iterator[None]:
    """A criu on the first node that waits for another one before it dumps."""
    node1.run(["mkdir", "/run/together"])
    node1.write("/usr/local/sbin/criu", TOGETHER, 0o755)
    yield
    node1.run(["rm", "-r", "/run/together", "/usr/local/sbin/criu"])


def locks_of(node: Node, run_id: str) -> list[str]:
    """The locks that a run has taken for its own on the source."""
    path = node.root / "var/lib/reberth/ended" / run_id / "journal.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [record["name"] for record in records if record.get("do") == "nft_delete"]


@pytest.mark.parametrize("planted", [False, True], ids=["as-it-is", "told-apart-by-being-new"])
def test_each_takes_its_own_lock(
    planted: bool,
    works: Stand,
    watch: Watch,
    together: None,
    reberth: Command,
    node1: Node,
    node2: Node,
    tmp_path: Path,
) -> None:
    """The twin, which takes every new lock for its own, takes the other one's."""
    handles = [works.raw("tcp", "--count", "20") for _ in range(2)]
    with changed_code(tmp_path, NEWEST if planted else []) as env:
        words = [("move", *PLAIN, "--json", "--", word_of(node1, one), "node2:") for one in handles]
        done = [reberth.finish(process) for process in [reberth.start(*word, env=env) for word in words]]
    taken = [locks_of(node1, one.report["id"]) for one in done]
    if planted:
        assert max(map(len, taken)) == 2, taken
        return
    assert [one.code for one in done] == [0, 0], "\n".join(map(str, done))
    assert [len(names) for names in taken] == [1, 1] and taken[0] != taken[1], taken
    for handle in handles:
        healthy(node2, handle)
        assert gone(node1, handle)
