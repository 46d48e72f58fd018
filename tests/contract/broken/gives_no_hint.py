"""When it fails nobody learns where to look."""

from __future__ import annotations

import good_connector as good
from good_connector import *  # noqa: F403
from good_connector import Node, Route, hookimpl

FAILS = "test_a_route_is_data"
BECAUSE = "hint"


@hookimpl
def reberth_connect(node: Node) -> Route:
    got = good.reberth_connect(node)
    return Route(got.control, got.bulk, quoted=True)
