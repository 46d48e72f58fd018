"""`reberth history`: past migrations."""

from __future__ import annotations

from typing import Annotated

import typer

from reberth.cli import params
from reberth.cli.output import note, write, write_json
from reberth.cli.runs import load_report, run_ids
from reberth.report import Report
from reberth.text import human_seconds, table
from reberth_hooks import ReberthError

Limit = Annotated[int, typer.Option("--limit", min=1, max=100000, help="At most so many, newest first.")]
HEAD = ("ID", "SOURCE", "TARGET", "MODE", "OUTCOME", "DOWNTIME", "TOTAL")


def command(limit: Limit = 20, json: params.Json = False) -> None:
    """List past migrations.

    The newest comes first; a run without a report is `open`.

    \b
    reberth history --limit 5
    """
    reports = [report for run_id in run_ids()[:limit] if (report := _read(run_id)) is not None]
    if json:
        write_json({"schema": 1, "runs": [report.to_json() for report in reports]})
        return
    rows = [
        (r.id, r.source, r.target, r.mode, r.outcome or "open", human_seconds(r.downtime_s), human_seconds(r.total_s))
        for r in reports
    ]
    write(table(HEAD, rows) if rows else "no migrations yet")


def _read(run_id: str) -> Report | None:
    """The report of a run; without one the run is open. A broken one costs a warning, not the list."""
    try:
        return load_report(run_id) or Report(id=run_id, started="")
    except (ReberthError, OSError) as error:
        note(f"warning: run {run_id}: {error}")
        return None
