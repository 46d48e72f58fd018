"""`--verify` with a real copy: a good one is taken, a bad one is kept beside its source, or taken back.

Live because the command that judges the copy runs beside a real copy.
"""

from __future__ import annotations

import time

import pytest
from livekit import stand
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth_lab.node import Node


def test_a_good_copy_and_a_bad_one(works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node) -> None:
    handle = works.container("tree", "--processes", "4")
    rollback = ("--on-failure", "rollback")
    done = reberth.move(word_of(node1, handle), "node2:", "--verify", "exec:/bin/false", *rollback)
    assert (done.code, done.report["outcome"], done.report["owner"]) == (20, "rolled-back", "source"), str(done)
    assert "exec:/bin/false" in done.report["error"]["message"]
    healthy(node1, handle)
    assert gone(node2, handle)
    done = reberth.move(word_of(node1, handle), "node2:", "--verify", "processes")
    assert done.code == 0, str(done)
    healthy(node2, handle)
    assert gone(node1, handle)
    works.stop(handle)
    watch.check()


def test_a_bad_copy_waits_for_a_decision(
    works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    handle = works.raw("memory", "--mib", "4")
    done = reberth.move(word_of(node1, handle), "node2:", "--verify", "tcp:9")
    assert (done.code, done.report["owner"]) == (41, "target"), str(done)
    healthy(node2, handle)
    back = reberth.run("recover", done.report["id"], "--rollback", "--yes", "--json")
    assert back.code == 0, str(back)
    assert gone(node2, handle)
    works.stop(handle)
    watch.check()


def test_a_server_is_asked_over_tcp_and_http(watch: Watch, reberth: Command, node1: Node, node2: Node) -> None:
    pid = node1.spawn(["python3", "-m", "http.server", "8099", "--bind", "127.0.0.1", "--directory", "/opt"])
    words = (f"node1:criu/{pid}", "node2:", "--verify", "tcp:8099", "--verify")
    page = "http://127.0.0.1:8099/"
    try:
        for _ in range(200):
            if "8099" in node1.run(["ss", "-Hltn"]).stdout:
                break
            time.sleep(0.05)
        else:
            pytest.fail("the server does not listen")
        done = reberth.move(*words, f"{page}no-such", "--on-failure", "rollback")
        assert (done.code, done.report["owner"]) == (20, "source"), str(done)
        assert "404" in done.report["error"]["message"], str(done)
        done = reberth.move(*words, page)
        assert (done.code, done.report["owner"]) == (0, "target"), str(done)
        assert "8099" not in node1.run(["ss", "-Hltn"]).stdout
    finally:
        for node in (node1, node2):
            node.run(["kill", "-KILL", str(pid)], check=False)
            stand.remove_empty_cgroups(node)
    watch.check()
