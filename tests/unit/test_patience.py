"""The connection for pages outlasts every outage that the target's own time-out allows; the others notice it early."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import reberth_ssh
from reberth.connect import process
from reberth.node.pages.patience import STALL_S
from reberth_android import route as reberth_android
from reberth_hooks import Node, Route

NODES = [
    (reberth_ssh, Node("n", "192.0.2.1", "ssh")),
    (reberth_android, Node("n", "192.0.2.1", "android", options={"android": {"port": 4444}})),
]


def patience_s(argv: Sequence[str]) -> int:
    """How long ssh waits for a peer that is silent: the first value of an option counts."""
    words = dict(reversed([word.split("=", 1) for word in argv if word.startswith("ServerAlive")]))
    return int(words["ServerAliveInterval"]) * int(words["ServerAliveCountMax"])


@pytest.mark.parametrize(("connector", "node"), NODES, ids=["ssh", "android"])
def test_pages_wait_for_a_link_that_comes_back(connector, node):
    route = connector.reberth_connect(node=node)
    assert patience_s(process.route_argv(route, ["x"], pages=True)) > STALL_S
    assert patience_s(process.route_argv(route, ["x"], bulk=True)) < STALL_S
    assert patience_s(process.route_argv(route, ["x"])) < STALL_S


def test_a_connector_that_knows_no_such_words_carries_pages_as_all_data():
    assert process.route_argv(Route(control=("a",), bulk=("b",)), ["x"], pages=True) == ["b", "x"]
