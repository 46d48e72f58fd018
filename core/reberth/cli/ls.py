"""`reberth ls`: the workloads of the nodes."""

from __future__ import annotations

from typing import Annotated

import typer

from reberth.cli import common, params
from reberth.cli.output import note, write, write_json
from reberth.text import human_bytes, safe, table
from reberth_hooks import plain

Node = Annotated[str, typer.Argument(metavar="NODE", help="One node; all without it.", show_default=False)]
HEAD = ("NODE", "BACKEND", "NAME", "STATUS", "PID", "MEMORY", "DETAIL")


def command(node: Node = "", json: params.Json = False, quiet: params.Quiet = False) -> None:
    """List the workloads of the nodes.

    Each enabled backend is asked. A node that does not answer gives a warning and no workloads.

    \b
    reberth ls
    reberth ls pi1
    """
    with common.open_host(common.load_config(), quiet=quiet, json=json) as host:
        found = host.list_workloads(node.removesuffix(":") or None)
        warnings = list(host.warnings)
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
