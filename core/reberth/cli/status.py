"""`reberth status`: the migrations that are open."""

from __future__ import annotations

from reberth.cli import common, params
from reberth.cli.facts import fact_lines
from reberth.cli.output import write, write_json
from reberth.config.names import check_name


def command(run_id: params.AnyRunId = "", json: params.Json = False) -> None:
    """Show the migrations that are open.

    With an id: that run, open or not.

    \b
    reberth status
    """
    with common.open_host(common.load_config(), json=json) as host:
        runs = host.status(check_name(run_id, "run id") if run_id else None)
    if json:
        write_json({"schema": 1, "runs": runs})
    else:
        write([line for run in runs for line in fact_lines(run)] or "no migration is open")
