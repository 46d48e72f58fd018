"""`reberth ls`: the workloads of the nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from reberth.cli import common, params
from reberth.cli.output import note, write, write_json
from reberth.complete import cache
from reberth.text import human_bytes, safe, table
from reberth_hooks import Found, plain

Node = Annotated[str, typer.Argument(metavar="NODE", help="One node; all without it.", show_default=False)]
HEAD = ("NODE", "BACKEND", "NAME", "STATUS", "PID", "MEMORY", "DETAIL")


def command(node: Node = "", json: params.Json = False, quiet: params.Quiet = False) -> None:
    """List the workloads of the nodes.

    Each enabled backend is asked. A node that does not answer gives a warning and no workloads.

    \b
    reberth ls
    reberth ls pi1
    """
    config, one = common.load_config(), node.removesuffix(":") or None
    with common.open_host(config, quiet=quiet, json=json) as host:
        found = host.list_workloads(one)
        warnings = list(host.warnings)
    remember([one] if one else config.nodes, found, complete=not warnings)
    if json:
        workloads = [{"node": name, **plain(entry)} for name, entry in found]
        write_json({"schema": 1, "workloads": workloads, "warnings": warnings})
        return
    rows = [
        (
            name,
            entry.backend,
            entry.name,
            entry.status,
            entry.pid or "-",
            human_bytes(entry.memory_bytes) if entry.memory_bytes else "-",
            entry.detail,
        )
        for name, entry in found
    ]
    write(table(HEAD, rows))
    for warning in warnings:
        note(f"warning: {safe(warning)}")


def remember(nodes: Iterable[str], found: Sequence[tuple[str, Found]], *, complete: bool) -> None:
    """Keep the names for completion; where some node did not answer, no node's list becomes empty."""
    for node in nodes:
        entries = [cache.Entry(entry.backend, entry.name, entry.status) for name, entry in found if name == node]
        if entries or complete:
            cache.write(node, entries)
