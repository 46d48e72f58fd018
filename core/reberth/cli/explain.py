"""`reberth explain`: a log of criu, runc or LXD in plain words."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from reberth.cli import params
from reberth.cli.output import write, write_json
from reberth.report.explain import MOST_BYTES, Explanation, explain
from reberth.text import safe
from reberth_hooks import UsageError

Log = Annotated[str, typer.Argument(metavar="LOGFILE", help="The log; - reads standard input.", show_default=False)]


def command(log: Log, json: params.Json = False) -> None:
    """Say what a log of CRIU, runc or LXD means.

    The first real error line is always shown; then cause and remedy, if the message is known.

    \b
    reberth explain /var/lib/reberth/runs/ID/logs/source-pi1-dump.log
    runc restore web 2>&1 | reberth explain -
    """
    found = explain(_read(log))
    if json:
        write_json({"schema": 1, "log": log, **asdict(found)})
    else:
        write("\n".join(lines_of(found)))


def lines_of(found: Explanation) -> list[str]:
    """Return the explanation for people."""
    if not found.first_error:
        return ["no error in this log"]
    lines = [f"error    {safe(found.first_error)}"]
    if found.pid:
        lines.append(f"process  {found.pid}")
    if not found.rule:
        return [*lines, "cause    not known to reberth; the line above is the tool's own"]
    return [*lines, f"cause    {safe(found.cause)}", f"remedy   {safe(found.remedy)}"]


def _read(log: str) -> str:
    try:
        if log == "-":
            return sys.stdin.buffer.read(MOST_BYTES).decode("utf-8", "backslashreplace")
        with Path(log).open("rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", "backslashreplace")
    except OSError as error:
        raise UsageError(
            f"{log!a} cannot be read: {error.strerror}", hint="name a log file, or - for standard input"
        ) from error
