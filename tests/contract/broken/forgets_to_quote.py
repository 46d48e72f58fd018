"""The far end's shell reads the words anew."""

from __future__ import annotations

import good_connector as good
from good_connector import *  # noqa: F403
from good_connector import Node, Route, hookimpl

FAILS = "test_words_arrive_unchanged"
BECAUSE = "ConnectionLostError|UnreachableError"


@hookimpl
def reberth_connect(node: Node) -> Route:
    got = good.reberth_connect(node)
    return Route(got.control, got.bulk, quoted=False, hint=got.hint)
