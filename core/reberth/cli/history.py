"""`reberth history`: past migrations, and what they keep on disk."""

from __future__ import annotations

from typing import Annotated

import typer

from reberth.cli import common, params
from reberth.cli.output import note, write, write_json
from reberth.cli.runs import load_report, run_ids
from reberth.report.report import Report
from reberth.text import human_bytes, human_seconds, safe, table
from reberth_hooks import Exit, ReberthError

app = typer.Typer(add_completion=False, rich_markup_mode=None)
Limit = Annotated[int, typer.Option("--limit", min=1, max=100000, help="At most so many, newest first.")]
Keep = Annotated[int, typer.Option("--keep", min=0, max=100000, help="Never remove the newest so many.")]
Days = Annotated[
    int, typer.Option("--older-than", min=0, max=36500, metavar="DAYS", help="Only those older than this.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Say what would go, and touch nothing.", show_default=False)
]
HEAD = ("ID", "SOURCE", "TARGET", "MODE", "OUTCOME", "DOWNTIME", "TOTAL")


@app.callback(invoke_without_command=True)
def history(context: typer.Context, limit: Limit = 20, json: params.Json = False) -> None:
    """List past migrations.

    The newest comes first; a run without a report is `open`.

    \b
    reberth history --limit 5
    reberth history prune --older-than 90
    """
    if context.invoked_subcommand is not None:
        return
    reports = [report for run_id in run_ids()[:limit] if (report := _read(run_id)) is not None]
    if json:
        write_json({"schema": 1, "runs": [report.to_json() for report in reports]})
        return
    rows = [
        (r.id, r.source, r.target, r.mode, r.outcome or "open", human_seconds(r.downtime_s), human_seconds(r.total_s))
        for r in reports
    ]
    write(table(HEAD, rows) if rows else "no migrations yet")


@app.command("prune")
def prune(keep: Keep = 20, days: Days = 30, dry_run: DryRun = False, json: params.Json = False) -> None:
    """Remove the journals, reports and logs of old migrations, and images that were kept on the nodes.

    Open and held migrations are never touched.

    \b
    reberth history prune --dry-run
    reberth history prune --keep 0 --older-than 0
    """
    from reberth.commands import retention as work

    chosen = work.chosen(work.past_runs(), keep, days * work.DAY_S)
    failed: list[str] = []
    if not dry_run and chosen:
        with common.open_host(common.load_config(), json=json) as host:
            failed = work.remove(host, chosen)
    size_bytes = sum(one.size_bytes for one in chosen)
    if json:
        ids = [one.id for one in chosen]
        write_json({"schema": 1, "runs": ids, "bytes": size_bytes, "failed": failed, "removed": not dry_run})
    else:
        word = "would be removed" if dry_run else "removed"
        write("\n".join([*(safe(one.id) for one in chosen), f"{len(chosen)} runs {word}, {human_bytes(size_bytes)}"]))
    for problem in failed:
        note(f"warning: kept, its images could not be removed: {safe(problem)}")
    raise typer.Exit(int(Exit.CLEANUP_PENDING if failed else Exit.DONE))


def _read(run_id: str) -> Report | None:
    """Return the report of a run; without one the run is open. A broken one costs a warning, not the list."""
    try:
        return load_report(run_id) or Report(id=run_id, started="")
    except (ReberthError, OSError) as error:
        note(f"warning: run {run_id}: {error}")
        return None
