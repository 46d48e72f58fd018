"""`reberth check`: a node, or a pair of nodes, before any move."""

from __future__ import annotations

from typing import Annotated

import typer

from reberth.cli import common, params
from reberth.cli.output import write, write_json
from reberth.cli.plan_text import check_lines
from reberth_hooks import Exit, Level, plain

First = Annotated[str, typer.Argument(metavar="NODE", help="A node.", show_default=False)]
Second = Annotated[str, typer.Argument(metavar="NODE", help="The other end of a pair.", show_default=False)]


def command(node: First, other: Second = "", json: params.Json = False, quiet: params.Quiet = False) -> None:
    """Check a node, or a pair of nodes, before any move.

    Each line is ok, warn or fail, with a remedy. Exit code 10 when a check failed. The checks that depend on a
    workload are made by `reberth plan`.

    \b
    reberth check pi1
    reberth check pi1 pi2
    """
    from reberth.commands.check_nodes import check_nodes  # with connections, which `--help` does not need

    names = [word.removesuffix(":") for word in (node, other) if word]
    with common.open_host(common.load_config(), quiet=quiet, json=json) as host:
        checks = check_nodes(host, names)
    failed = any(check.level is Level.FAIL for check in checks)
    code = int(Exit.REFUSED if failed else Exit.DONE)
    if json:
        write_json({"schema": 1, "nodes": names, "checks": plain(checks), "failed": failed, "exit_code": code})
    else:
        write([line for check in checks for line in check_lines(check)])
    raise typer.Exit(code)
