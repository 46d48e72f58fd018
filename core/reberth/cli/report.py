"""`reberth report`: one past migration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reberth.cli import params
from reberth.cli.output import write, write_json
from reberth.cli.runs import load_report, run_ids
from reberth.config.names import check_name
from reberth.config.options import near
from reberth.report.html import render_html
from reberth.report.report import render_text
from reberth_hooks import UsageError

Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page with pictures, - for stdout.", show_default=False),
]


def command(run_id: params.RunId, html: Html = None, json: params.Json = False) -> None:
    """Show the report of one migration.

    \b
    reberth report 20250131-120000-1f2e
    reberth report 20250131-120000-1f2e --html report.html
    """
    report = load_report(check_name(run_id, "run id"))
    if report is None and run_id in run_ids():
        raise UsageError(f"run {run_id} has no report yet", hint=f"reberth status {run_id}")
    if report is None:
        raise UsageError(f"there is no run {run_id}{near(run_id, run_ids())}", hint="reberth history")
    if html is not None:
        page = render_html(report)
        if str(html) == "-":
            write(page)
        else:
            html.write_text(page, encoding="utf-8")
    elif json:
        write_json(report.to_json())
    else:
        write(render_text(report))
