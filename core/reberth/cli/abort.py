"""`reberth abort`: stop an open migration."""

from __future__ import annotations

import typer

from reberth.cli import common, params
from reberth.cli.facts import fact_lines
from reberth.cli.output import write, write_json
from reberth.config.names import check_name


def command(run_id: params.RunId, json: params.Json = False) -> None:
    """Stop an open migration; the source runs on.

    Once the target is permitted to run it is too late, and the answer says so.

    \b
    reberth abort 20250131-120000-1f2e
    """
    with common.open_host(common.load_config(), json=json) as host:
        answer = host.abort(check_name(run_id, "run id"))
    if json:
        write_json({"schema": 1, **answer})
    else:
        write(fact_lines(answer))
    raise typer.Exit(int(answer.get("exit_code", 0)))
