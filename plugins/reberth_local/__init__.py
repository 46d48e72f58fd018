"""Connector `local`: the node is this machine; commands run here, through the same node helper as everywhere."""

from __future__ import annotations

from reberth_hooks import Declaration, Node, Role, Route, UsageError, hookimpl

BECOME = {"none": (), "sudo": ("sudo", "-n", "--")}


@hookimpl
def reberth_describe() -> Declaration:
    """A connector."""
    return Declaration(summary="this machine", roles=frozenset({Role.CONNECTOR}))


@hookimpl
def reberth_connect(node: Node) -> Route:
    """No words before a command, but sudo's where asked for."""
    if node.become not in BECOME:
        raise UsageError(
            f"node {node.name}: become = {node.become!r} is not known to connector local", hint="none or sudo"
        )
    return Route(become=BECOME[node.become], hint="is python3 installed here?")
