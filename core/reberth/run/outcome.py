"""How a run is told: the report's times across two clocks, its error and its exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from reberth.report.explain import explain
from reberth.report.report import Report
from reberth.run.decide import Decision, Step
from reberth.run.journal import Journal
from reberth.run.opened import untold
from reberth.run.session import Session
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
    images_sent: int | None,
    total_s: float,
) -> None:
    """Rounds, bytes and times; CRIU's own counters of the final round exist only after the source was given up."""
    report.total_s = report.total_s or total_s
    report.compress = session.packed() or report.compress
    if history:
        report.rounds = [plain(i) for i in history]
    if history and stats:
        report.rounds[-1].update({k: int(stats.get(k, 0)) for k in COUNTERS})
    if final is not None:
        _fill_times(report, session, final, session.known(1) or {})
        report.bytes["pages"] += sum(i.bytes for i in history[:-1])
    if images_sent is not None and report.bytes["memory"]:  # only what had changed went over with the images
        report.bytes["pages"] = min(report.bytes["pages"], max(0, images_sent - report.bytes["images"]))


def _fill_times(report: Report, session: Session, final: Checkpoint, target: dict[str, Any]) -> None:
    """Downtime: each end's stamp less that node's clock offset, the error bounds added."""
    pages = final.iteration.bytes
    report.bytes["pages"] = pages + int((target.get("fill") or {}).get("bytes") or 0)
    dumped = (session.recall("dump") or {}).get("images_bytes") or session.recall("images_bytes") or pages
    report.bytes["images"] = int(dumped) - pages
    report.frozen_s = (final.held_ns - final.frozen_ns) / 1e9 if final.frozen_ns else None
    running_ns = int(target.get("running_ns") or 0)
    source, copy = session.ends
    if running_ns and final.frozen_ns and source is not None and copy is not None:
        (here, here_error), (there, there_error) = source.clock(), copy.clock()
        report.downtime_s = ((running_ns - there) - (final.frozen_ns - here)) / 1e9
        report.downtime_error_s = (here_error + there_error) / 1e9
    report.restore_s = next((p["seconds"] for p in report.phases if p["name"] == "restore"), None)


def is_open(end: Mapping[str, Any] | None) -> bool:
    """Tell whether a run with this last `end` in its journal goes on, is held, or is not cleaned up."""
    return end is None or end["outcome"] in ("held", "detached") or end["exit_code"] == Exit.CLEANUP_PENDING


def is_unfinished(journal: Journal) -> bool:
    """Tell whether there is something left for `recover`.

    The run is open, its backend could not tidy up after it, or a node has still to be told that it is over.
    """
    return is_open(journal.last("end")) or is_untidy(journal) or bool(untold(journal))


def is_untidy(journal: Journal) -> bool:
    """Tell whether the last that the backend noted of its rollback is that something could not be put back."""
    notes = [record["key"] for record in journal.records if record["event"] == "note"]
    return [key for key in notes if key in ("untidy", "tidied")][-1:] == ["untidy"]


def name_leftovers(report: Report, session: Session) -> None:
    """Both ends are through: nothing of the run may be there any more, and what is there becomes a warning."""
    if is_open({"outcome": report.outcome, "exit_code": report.exit_code}):
        return
    for end in session.ends:
        with contextlib.suppress(ReberthError):
            if end is not None:
                left = end.call("leftovers", run_id=session.id, timeout_s=15.0)
                report.warnings += [f"left behind on {end.node.name}: {what}" for what in left]


def _held_late(session: Session, code: int) -> int:
    """Held, but in a post-copy: the copy ran, as its pages were asked for."""
    late = code == Exit.HELD and any(record.get("step") == Step.FILL for record in session.journal.records)
    return int(Exit.HELD_POST_COPY) if late else code


def set_aside_error(report: Report) -> None:
    """Turn what stopped the run into a warning: `recover` settles it, and the error is this attempt's."""
    if report.error:
        text = f"it had failed before: {report.error.get('message', '')}"
        report.warnings = list(dict.fromkeys([*report.warnings, text]))
    report.error = None


def fill_end(report: Report, session: Session, decision: Decision, cause: BaseException | None, phase: str) -> None:
    """Outcome, owner, exit code and error; the first cause tells more than where the run was settled to."""
    _fill_end(report, session, decision, cause, phase)
    if session.recall("untidy") and is_untidy(session.journal):
        report.warnings.append(f"not all is as before: {session.recall('untidy')}; reberth recover {session.id}")
    if report.outcome == "rolled-back" and session.recall("lost"):
        report.outcome = "lost"
        report.warnings.append(str(session.recall("lost")))
        if not any(record["event"] == "end" and record["exit_code"] == Exit.LOST for record in session.journal.records):
            report.exit_code = int(Exit.LOST)  # once; a `recover` that only tidies up after it does not lose it again
    elif session.recall("set-back"):
        report.warnings.append(str(session.recall("set-back")))


def _outdate_error(report: Report, decision: Decision) -> None:
    """Tell what `recover` finds: the cause of then stays, the state and the remedy that are over do not."""
    if decision.exit_code is Exit.CLEANUP_PENDING:
        report.warnings.append(decision.why)
    if not report.error:
        return
    if decision.outcome == "held":
        message = decision.why if report.error.get("code") == "held" else report.error["message"]
        report.error = {**report.error, "message": message, "hint": "" if message == decision.why else decision.why}
    elif decision.outcome in ("moved", "rolled-back", "ended"):
        report.error = None if report.error.get("code") == "held" else {**report.error, "hint": ""}


def _fill_end(report: Report, session: Session, decision: Decision, cause: BaseException | None, phase: str) -> None:
    report.outcome, report.owner = decision.outcome, decision.owner.value
    report.exit_code = _held_late(session, int(decision.exit_code))
    if session.plan.options.keep_images:
        kept = [session.recall(f"images.{word}") for word in ("source", "target")]
        report.warnings.append(f"images are kept (they hold the workload's memory): {', '.join(filter(None, kept))}")
    report.warnings += [c.reason for c in session.plan.checks if c.level is Level.WARN]
    report.warnings = list(dict.fromkeys(report.warnings))  # an earlier attempt may have said the same
    if cause is None:
        _outdate_error(report, decision)
        if decision.outcome in ("held", "rolled-back") and decision.exit_code is not Exit.DONE and not report.error:
            words = {"code": decision.outcome, "message": decision.why, "hint": "", "log_tail": "", "phase": "commit"}
            report.error = words
        return
    ours = isinstance(cause, ReberthError)
    tail = getattr(cause, "tail", "")
    known = explain(tail)
    report.error = {
        "code": getattr(cause, "code", "bug") if ours else "bug",
        "message": getattr(cause, "message", "") or f"{type(cause).__name__}: {cause}",
        "cause": known.cause,
        "hint": (decision.why if decision.outcome == "held" else "") or getattr(cause, "hint", "") or known.remedy,
        "log_tail": tail,
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
