"""The report in plain words: what came out, where the workload is now, what it cost, what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from reberth.text import human_bytes, human_seconds, safe, safe_lines, table
from reberth_hooks import Exit, Owner

if TYPE_CHECKING:
    from reberth.report.report import Report

TAIL_LINES = 20
BAR = 40  # characters of the longest round
UNTOUCHED = frozenset({Exit.USAGE, Exit.REFUSED, Exit.BUSY, Exit.UNTRUSTED, Exit.UNREACHABLE, Exit.PLUGIN})
ENDS = {
    "moved": "moved",
    "refused": "refused: nothing was touched",
    "rolled-back": "failed and rolled back",
    "held": "held: it needs a decision",
    "ended": "the workload has ended",
    "detached": "detached: it goes on without this terminal",
    "lost": "lost",
}
NEXT = {
    Exit.DONE: "reberth history",
    Exit.BUG: "reberth recover {id} --dry-run",
    Exit.REFUSED: "reberth plan {source} {target}",
    Exit.BUSY: "reberth status",
    Exit.HELD: "reberth recover {id}",
    Exit.HELD_POST_COPY: "reberth recover {id}",
    Exit.CLEANUP_PENDING: "reberth recover {id}",
    Exit.DETACHED: "reberth status {id}",
}


def where_now(report: Report) -> str:
    """One sentence that says where the workload is."""
    source = report.source.partition(":")[0] or "the source"
    target = report.target.partition(":")[0] or "the target"
    name = report.target.partition(":")[2] or report.workload
    stands = "stopped" if report.mode == "near-live" else "frozen"
    said = {
        Exit.HELD: f"it is {stands} on {source} and runs nowhere until `reberth recover` decides",
        Exit.HELD_POST_COPY: f"it is stopped on {source}, and its copy on {target} waits for its pages",
        Exit.ENDED: "it runs nowhere: it has ended",
        Exit.LOST: f"it was started afresh on {source}: what its memory held is lost"
        if report.owner == Owner.SOURCE.value
        else "it runs nowhere: it is lost",
        Exit.DETACHED: f"{source} and {target} go on with it by themselves",
    }.get(
        Exit.LOST if report.outcome == "lost" else Exit(report.exit_code) if report.exit_code in set(Exit) else Exit.BUG
    )
    if said is None and report.outcome == "moved" and report.owner == Owner.NOBODY.value:
        said = f"it is in the directory {report.target}: reberth restore {report.target} NODE:"
    if said is None and report.owner == Owner.TARGET.value:
        said = f"it runs on {target} as {name}"
    elif said is None and report.owner == Owner.SOURCE.value:
        said = f"it runs on {source}, as before"
    return safe(said or f"it may run neither on {source} nor on {target}; `reberth recover` finds out")


def next_command(report: Report) -> str:
    """Return the command that a user would type next."""
    pattern = NEXT.get(Exit(report.exit_code), "reberth report {id}") if report.exit_code in set(Exit) else ""
    return safe(pattern.format(id=report.id, source=report.source, target=report.target))


def render_text(report: Report) -> str:
    """Return the report for people, in lines of plain text."""
    parts = [_head(report), _costs(report), _rounds(report), _phases(report), _warnings(report), _error(report)]
    lines = [line for part in parts for line in part]
    return "\n".join([*lines, f"next       {next_command(report)}"]) + "\n"


def _head(report: Report) -> Iterator[str]:
    yield f"{safe(report.source)} -> {safe(report.target)}: {ENDS.get(report.outcome, safe(report.outcome) or 'open')}"
    yield f"run        {safe(report.id)}, started {safe(report.started)}, exit code {report.exit_code}"
    yield f"now        {where_now(report)}"
    how = " by ".join(part for part in (report.mode, ", ".join(report.transports)) if part)
    yield f"how        {safe(how or '-')}" + (f" ({safe(report.stop_reason)})" if report.stop_reason else "")


def _costs(report: Report) -> Iterator[str]:
    if report.downtime_s is not None:
        error = f" ± {human_seconds(report.downtime_error_s)}" if report.downtime_error_s is not None else ""
        yield f"downtime   {human_seconds(report.downtime_s)}{error}"
    said = report.predicted
    if said:
        low, high = human_seconds(said["downtime_low_s"]), human_seconds(said["downtime_high_s"])
        yield f"predicted  {low} to {high} of downtime, {human_seconds(said['total_s'])} in all"
    if report.total_s is not None:
        yield f"total      {human_seconds(report.total_s)}"
    sent = [f"{human_bytes(size)} {safe(kind)}" for kind, size in report.bytes.items() if size]
    if sent:
        yield f"sent       {', '.join(sent)}"
    if packed := packed_line(report):
        yield f"compressed {packed}"


def packed_line(report: Report) -> str:
    """Return what compression has made of the trees, empty where there was none."""
    found = report.compress
    if not found:
        return ""
    sizes = f"{human_bytes(found['raw_bytes'])} of trees as {human_bytes(found['wire_bytes'])} on the wire"
    return f"{sizes} by {safe(found['method'])} ({safe(found['why'])})"


def _rounds(report: Report) -> Iterator[str]:
    if len(report.rounds) > 1:
        most = max(r.get("bytes") or 0 for r in report.rounds) or 1
        rows = [
            (
                r.get("index", "-"),
                human_bytes(r.get("bytes", 0)),
                human_seconds(r.get("seconds")),
                "#" * max(1, round(BAR * (r.get("bytes") or 0) / most)),
            )
            for r in report.rounds
        ]
        yield "rounds"
        yield from (f"  {line}" for line in table(("round", "bytes", "time", ""), rows))


def _phases(report: Report) -> Iterator[str]:
    if report.phases:
        rows = [
            (p.get("name", "-"), human_seconds(p.get("start_s")), human_seconds(p.get("seconds")))
            for p in report.phases
        ]
        yield "phases"
        yield from (f"  {line}" for line in table(("phase", "begin", "time"), rows))


def _warnings(report: Report) -> Iterator[str]:
    for warning in report.warnings:
        yield f"warning    {safe(warning)}"
    for check in report.checks:
        if check.get("level") == "fail":
            remedy = f"; {safe(check['remedy'])}" if check.get("remedy") else ""
            yield f"fail       {safe(check.get('id', ''))}: {safe(check.get('reason', ''))}{remedy}"


def _error(report: Report) -> Iterator[str]:
    if report.error is None:
        return
    phase = f" (in {safe(report.error['phase'])})" if report.error.get("phase") else ""
    yield f"error      {safe(report.error.get('message', ''))}{phase}"
    if report.error.get("cause"):
        yield f"  cause: {safe(report.error['cause'])}"
    if report.error.get("hint"):
        yield f"  hint: {safe(report.error['hint'])}"
    yield from (f"  | {line}" for line in safe_lines(str(report.error.get("log_tail") or ""))[-TAIL_LINES:])
