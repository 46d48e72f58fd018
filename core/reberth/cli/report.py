"""`reberth report`: one past migration."""

from __future__ import annotations

from reberth.cli import params
from reberth.cli.output import write, write_json
from reberth.cli.runs import load_report, run_ids
from reberth.names import check_name
from reberth.options import near
from reberth.report import render_text
from reberth_hooks import UsageError


def command(run_id: params.RunId, json: params.Json = False) -> None:
    """Show the report of one migration.

    \b
    reberth report 20250131-120000-1f2e
    """
    report = load_report(check_name(run_id, "run id"))
    if report is None and run_id in run_ids():
        raise UsageError(f"run {run_id} has no report yet", hint=f"reberth status {run_id}")
    if report is None:
        raise UsageError(f"there is no run {run_id}{near(run_id, run_ids())}", hint="reberth history")
    if json:
        write_json(report.to_json())
    else:
        write(render_text(report))
