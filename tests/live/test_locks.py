"""Two moves at once on one node, each with connections to keep: neither takes the other's network lock along.

Live because criu's rules stand in the real nftables of a node.
"""

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
# Another criu's table comes up while ours dumps: when we have looked which there are, and before ours makes its own.
STRANGER = "CRIU-0badcafe-0000-4000"
BESIDE = f"""#!/bin/sh
[ "$1" != dump ] || nft add table inet {STRANGER}
exec /usr/sbin/criu "$@"
"""
NEWEST = [
    (
        "node/runs/source.py",
        "network_lock.of_images(work, network_lock.tables() - before)",
        "network_lock.tables() - before",
    )
]


@pytest.fixture
def together(node1: Node) -> Iterator[None]:
    """A criu on the first node that waits for another one before it dumps."""
    node1.run(["mkdir", "/run/together"])
    node1.write("/usr/local/sbin/criu", TOGETHER, 0o755)
    yield
    node1.run(["rm", "-r", "/run/together", "/usr/local/sbin/criu"])


@pytest.fixture
def beside(node1: Node) -> Iterator[None]:
    """A criu on the first node beside which a stranger's lock appears."""
    node1.write("/usr/local/sbin/criu", BESIDE, 0o755)
    yield
    node1.run(["rm", "/usr/local/sbin/criu"])
    node1.run(["nft", "destroy", "table", "inet", STRANGER])


def locks_of(node: Node, run_id: str) -> list[str]:
    """The locks that a run has taken for its own on the source."""
    path = node.root / "var/lib/reberth/ended" / run_id / "journal.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [record["name"] for record in records if record.get("do") == "nft_delete"]


def test_each_takes_its_own_lock(
    works: Stand, watch: Watch, together: None, reberth: Command, node1: Node, node2: Node
) -> None:
    handles = [works.raw("tcp", "--count", "20") for _ in range(2)]
    words = [("move", *PLAIN, "--json", "--", word_of(node1, one), "node2:") for one in handles]
    done = [reberth.finish(process) for process in [reberth.start(*word) for word in words]]
    taken = [locks_of(node1, one.report["id"]) for one in done]
    assert [one.code for one in done] == [0, 0], "\n".join(map(str, done))
    assert [len(names) for names in taken] == [1, 1] and taken[0] != taken[1], taken
    for handle in handles:
        healthy(node2, handle)
        assert gone(node1, handle)


@pytest.mark.parametrize("planted", [False, True], ids=["as-it-is", "told-apart-by-being-new"])
def test_a_strangers_lock_stays(
    planted: bool, works: Stand, beside: None, reberth: Command, node1: Node, tmp_path: Path
) -> None:
    """The twin, which takes every new lock for its own, takes the stranger's."""
    handle = works.raw("tcp", "--count", "20")
    with changed_code(tmp_path, NEWEST if planted else []) as env:
        done = reberth.finish(reberth.start("move", *PLAIN, "--json", "--", word_of(node1, handle), "node2:", env=env))
    assert done.code == 0, done
    taken = locks_of(node1, done.report["id"])
    assert len(taken) == 1 + planted and (STRANGER in taken) is planted, taken
    assert (STRANGER in node1.run(["nft", "list", "tables"]).stdout) is not planted
