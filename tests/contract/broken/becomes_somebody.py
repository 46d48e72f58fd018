"""An unknown way to become root is ignored."""

from __future__ import annotations

from good_connector import *  # noqa: F403
from good_connector import Node, Route, hookimpl

FAILS = "test_an_unknown_become_is_refused"
BECAUSE = "DID NOT RAISE"


@hookimpl
def reberth_connect(node: Node) -> Route:
    words = ("ssh", "--", node.address or node.name)
    return Route(control=words, bulk=words, quoted=True, hint="try: ssh")
