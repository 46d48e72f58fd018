"""The controller may run on the source, on the target, or on a third machine: here on the first two.

Live because which machine is the controller changes real connections and real process trees.
"""

from __future__ import annotations

import json

import pytest
from livekit.command import Command, Done, done_of
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth_lab.node import Node


def inside(node: Node, *words: str) -> Done:
    """Run the command that is installed in the node, with the node's own inventory."""
    done = node.run(["reberth", *words], check=False, timeout_s=120)
    return done_of(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("kind", ["raw", "runc"])
@pytest.mark.parametrize(
    ("controller", "source", "target"),
    [
        ("node1", "", "node2:"),
        ("node1", "node1:", "node2:"),
        ("node2", "node1:", "local:"),
        ("node2", "node1:", "node2:"),
    ],
    ids=["push", "push-by-ssh", "pull", "pull-by-ssh"],
)
def test_the_controller_is_an_end_of_the_move(
    controller: str, source: str, target: str, kind: str, works: Stand, watch: Watch, node1: Node, node2: Node
) -> None:
    handle = (works.raw if kind == "raw" else works.container)("memory", "--mib", "8")
    word = word_of(node1, handle).replace("node1:", source)
    done = inside(node1 if controller == "node1" else node2, "move", word, target, "--json")
    assert done.code == 0, str(done)
    assert done.report["outcome"] == "moved"
    healthy(node2, handle)
    assert gone(node1, handle)
    node = node1 if controller == "node1" else node2
    history = json.loads(node.run(["reberth", "history", "--json"]).stdout)
    assert history["runs"][0]["id"] == done.report["id"]
    assert history["runs"][0]["outcome"] == "moved"
    works.stop(handle)
    watch.check()


def test_a_node_without_configuration_lists_its_own(works: Stand, node1: Node) -> None:
    raw, container = works.raw("memory", "--mib", "4"), works.container("memory", "--mib", "4")
    node1.write("/root/empty.toml", "")
    found = node1.run(["reberth", "ls", "--json"], env={"REBERTH_CONFIG": "/root/empty.toml"})
    seen = {(one["node"], one["backend"], one["name"]) for one in json.loads(found.stdout)["workloads"]}
    assert ("local", "criu", str(raw.pid)) in seen
    assert ("local", "runc", container.container) in seen


def test_the_outer_machine_sees_both(works: Stand, reberth: Command, node1: Node) -> None:
    handle = works.container("memory", "--mib", "4")
    listed = reberth.run("ls", "--json")
    assert listed.code == 0, str(listed)
    seen = {(one["node"], one["backend"], one["name"]) for one in listed.report["workloads"]}
    assert ("node1", "runc", handle.container) in seen
    # The outer machine itself may have no runc.
    assert [text for text in listed.report["warnings"] if "node1" in text or "node2" in text] == []
