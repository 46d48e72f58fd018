"""A host whose name begins with a dash is an option."""

from __future__ import annotations

from good_connector import *  # noqa: F403
from good_connector import Node, Route, UsageError, hookimpl

FAILS = "test_an_address_is_never_an_option"
BECAUSE = "assert"


@hookimpl
def reberth_connect(node: Node) -> Route:
    if node.become != "none":
        raise UsageError("not known")
    words = ("ssh", node.address or node.name)
    return Route(control=words, bulk=words, quoted=True, hint="try: ssh")
