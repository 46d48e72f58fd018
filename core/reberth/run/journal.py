"""The controller's journals: one directory a run under the state directory, with journal, report and kept logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from reberth.config.paths import state_dir
from reberth.node.errors import OpError
from reberth.node.system.durable import Journal as Lines
from reberth.node.system.procs import alive, task
from reberth.run import crash
from reberth_hooks import Exit, ReberthError, UsageError


def runs_dir() -> Path:
    """Where runs are kept, made 0700."""
    path = state_dir() / "runs"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def runs() -> list[str]:
    """Ids of all runs that this controller knows, newest first."""
    return sorted((p.name for p in runs_dir().iterdir() if (p / "journal.jsonl").exists()), reverse=True)


def run_dir(run_id: str) -> Path:
    """The directory of a known run, or UsageError."""
    path = runs_dir() / run_id
    if "/" in run_id or not (path / "journal.jsonl").exists():
        raise UsageError(f"there is no run {run_id!a}", hint="to see them: reberth history")
    return path


class NewerFormatError(ReberthError):
    """A later version of reberth began the run; it stays as it is."""

    code, exit_code = "newer-format", Exit.HELD


class Journal:
    """The journal of one run: each record is on disk before the step that it announces."""

    def __init__(self, run_id: str) -> None:
        self.dir = runs_dir() / run_id
        self.dir.mkdir(mode=0o700, exist_ok=True)
        self._lines = Lines(str(self.dir / "journal.jsonl"))

    def write(self, event: str, **data: Any) -> None:
        """Append a record."""
        crash.here(event, len(self.records), ":before")
        self._lines.write(event, **data)
        crash.here(event, len(self.records) - 1)

    def claim(self) -> None:
        """Say which process drives the run, so that `abort` can tell it from another one with its pid."""
        me = task(os.getpid())
        self.write("controller", pid=os.getpid(), start_ticks=me.start_ticks if me else 0)

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records so far."""
        return self._lines.records

    def last(self, *events: str) -> dict[str, Any] | None:
        """The newest record of these events."""
        return self._lines.last(*events)

    def readable(self) -> None:
        """Take the records as this version means them; raises NewerFormatError for what only a later one does."""
        try:
            self._lines.readable()
        except OpError as error:
            raise NewerFormatError(error.message, hint=error.hint) from error

    def controller(self) -> int:
        """Pid of the process that drives this run now, 0 when none does."""
        record = self.last("controller")
        return int(record["pid"]) if record and alive(record["pid"], record["start_ticks"]) else 0

    def keep_logs(self, node: str, logs: dict[str, str]) -> None:
        """Keep the tools' logs of one end beside the report."""
        place = self.dir / "logs"
        place.mkdir(mode=0o700, exist_ok=True)
        for name, text in logs.items():
            path = place / f"{node}-{Path(name).name}"
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
