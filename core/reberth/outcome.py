"""How a run is told: the report's times across two clocks, its error and its exit code."""

from __future__ import annotations

from typing import Any

from reberth.protocol import Decision, Step
from reberth.report import Report
from reberth.session import Session
from reberth_hooks import Checkpoint, Exit, HelperError, Iteration, Level, Owner, ReberthError, plain

COUNTERS = ("pages_scanned", "pages_written", "pages_skipped_parent", "frozen_us")
# Before the freeze these say that nothing was touched; later the run was rolled back instead.
UNTOUCHED = (Exit.USAGE, Exit.REFUSED, Exit.BUSY, Exit.UNTRUSTED, Exit.UNREACHABLE, Exit.PLUGIN)


def fill_costs(
    report: Report,
    session: Session,
    final: Checkpoint | None,
    history: list[Iteration],
    stats: dict[str, Any],
    total_s: float,
) -> None:
    """Rounds, bytes and times; CRIU's own counters of the final round exist only after the source was given up."""
    report.total_s = report.total_s or total_s
    if history:
        report.rounds = [plain(i) for i in history]
    if history and stats:
        report.rounds[-1].update({k: int(stats.get(k, 0)) for k in COUNTERS})
    if final is not None:
        _fill_times(report, session, final, session.known(1) or {})
        report.bytes["pages"] += sum(i.bytes for i in history[:-1])


def _fill_times(report: Report, session: Session, final: Checkpoint, target: dict[str, Any]) -> None:
    """Downtime: each end's stamp less that node's clock offset, the error bounds added."""
    pages = final.iteration.bytes
    report.bytes["pages"] = pages + int((target.get("fill") or {}).get("bytes") or 0)
    report.bytes["images"] = int(session.recall("images_bytes") or pages) - pages
    report.frozen_s = (final.held_ns - final.frozen_ns) / 1e9
    running_ns = int(target.get("running_ns") or 0)
    source, copy = session.ends
    if running_ns and final.frozen_ns and source is not None and copy is not None:
        (here, here_error), (there, there_error) = source.clock(), copy.clock()
        report.downtime_s = ((running_ns - there) - (final.frozen_ns - here)) / 1e9
        report.downtime_error_s = (here_error + there_error) / 1e9
    report.restore_s = next((p["seconds"] for p in report.phases if p["name"] == "restore"), None)


def fill_end(report: Report, session: Session, decision: Decision, cause: BaseException | None, phase: str) -> None:
    """Outcome, owner, exit code and error; the first cause tells more than where the run was settled to."""
    report.outcome, report.owner = decision.outcome, decision.owner.value
    report.exit_code = int(decision.exit_code)
    if decision.exit_code is Exit.HELD and any(r.get("step") == Step.FILL for r in session.journal.records):
        report.exit_code = int(Exit.HELD_POST_COPY)  # the copy ran, as its pages were asked for
    if session.plan.options.keep_images:
        kept = [session.recall(f"images.{word}") for word in ("source", "target")]
        report.warnings.append(f"images are kept (they hold the workload's memory): {', '.join(filter(None, kept))}")
    report.warnings += [c.reason for c in session.plan.checks if c.level is Level.WARN]
    if cause is None:
        if decision.outcome in ("held", "rolled-back") and decision.exit_code is not Exit.DONE and not report.error:
            words = {"code": decision.outcome, "message": decision.why, "hint": "", "log_tail": "", "phase": "commit"}
            report.error = words
        return
    ours = isinstance(cause, ReberthError)
    report.error = {
        "code": getattr(cause, "code", "bug") if ours else "bug",
        "message": getattr(cause, "message", "") or f"{type(cause).__name__}: {cause}",
        "hint": getattr(cause, "hint", ""),
        "log_tail": getattr(cause, "tail", ""),
        "phase": phase,
    }
    if decision.outcome != "rolled-back":
        return
    froze = bool((session.known(0) or {}).get("froze"))
    code = getattr(cause, "exit_code", Exit.BUG)
    if isinstance(cause, HelperError) and cause.kind == "ended":
        report.outcome, report.owner, report.exit_code = "ended", Owner.NOBODY.value, int(Exit.ENDED)
    elif code in UNTOUCHED and not froze:
        report.outcome, report.exit_code = "refused", int(code)
    elif code is Exit.TIMEOUT:
        report.exit_code = int(Exit.TIMEOUT)
    elif not ours:
        report.exit_code = int(Exit.BUG)
