"""A connector without a fault, by way of a fake ssh."""

from __future__ import annotations

from reberth_hooks import Declaration, Node, Role, Route, UsageError, hookimpl


@hookimpl
def reberth_describe() -> Declaration:
    return Declaration("reaches nodes", frozenset({Role.CONNECTOR}))


@hookimpl
def reberth_connect(node: Node) -> Route:
    if node.become != "none":
        raise UsageError(f"become = {node.become!r} is not known")
    words = ("ssh", "--", node.address or node.name)
    return Route(control=words, bulk=words, quoted=True, hint="try: ssh")
