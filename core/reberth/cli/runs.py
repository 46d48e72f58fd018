"""Reports on disk: `state_dir()/runs/ID/report.json`."""

from __future__ import annotations

from pathlib import Path

from reberth.config.names import is_name
from reberth.config.paths import state_dir
from reberth.report.report import Report


def runs_dir() -> Path:
    """Return where each run has a directory named by its id."""
    return state_dir() / "runs"


def run_ids() -> list[str]:
    """Return the ids of all runs, newest first: an id begins with its date and time."""
    directory = runs_dir()
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted((entry.name for entry in found if is_name(entry.name)), reverse=True)


def load_report(run_id: str) -> Report | None:
    """Return the report of a run, None while it has none; raises OSError, and UsageError for a broken file."""
    try:
        return Report.load(runs_dir() / run_id / "report.json")
    except FileNotFoundError:
        return None
