"""A plan in words, as JSON, and as the report of a refusal."""

from __future__ import annotations

from typing import Any

from reberth.report.report import Report
from reberth.text import human_bytes, human_seconds, safe, table
from reberth_hooks import Check, Exit, Level, Plan, plain


def plan_lines(plan: Plan) -> list[str]:
    """Return the plan for people: what, how, why, and every check that is not simply fine."""
    good = sum(check.level is Level.OK for check in plan.checks)
    routes = ", ".join(f"{kind} by {name}" for kind, name in sorted(plan.routes.items()))
    return [
        f"plan {safe(plan.id)}: {safe(plan.workload)} -> {safe(plan.target.name)}:{safe(plan.target_name)}",
        f"  mode   {safe(plan.why or plan.mode)}",
        f"  ways   {safe(routes or '-')}",
        *(f"  {line}" for line in figure_lines(plan)),
        f"  checks {good} of {len(plan.checks)} fine",
        *(f"  {line}" for check in plan.checks if check.level is not Level.OK for line in check_lines(check)),
    ]


def figure_lines(plan: Plan) -> list[str]:
    """Return what was measured, and what each mode would cost by it; the one that is taken is marked."""
    measured, predicted = plan.facts.get("measured") or {}, plan.facts.get("predicted") or {}
    lines = []
    if measured.get("link_bytes_s"):
        line = f"link   {human_bytes(measured['link_bytes_s'])}/s, measured"
        if measured.get("pages_link_bytes_s"):
            line += f"; {human_bytes(measured['pages_link_bytes_s'])}/s through this machine, for pages that follow"
        lines.append(line)
    if "dirty_bytes_s" in measured:
        rate, size = human_bytes(measured["dirty_bytes_s"]), human_bytes(measured["set_bytes"])
        memory = human_bytes(measured["resident_bytes"])
        lines.append(f"memory {memory} private, {rate}/s of it written within {size}, by a sample of its pages")
    packed = measured.get("compress")
    if packed and (packed["method"] != "none" or measured.get("link_bytes_s")):
        lines.append(f"packed {safe(packed['method'])}: {safe(packed['why'])}")
    if not measured or not predicted:
        return lines
    rows = [
        (
            ("* " if name == plan.mode else "  ") + safe(name),
            f"{human_seconds(p['downtime_low_s'])} to {human_seconds(p['downtime_high_s'])}",
            human_seconds(p["total_s"]),
            human_bytes(p["bytes"]),
            p["rounds"] + 1,
        )
        for name, p in predicted.items()
    ]
    return [*lines, *table(("  predicted", "downtime", "total", "bytes", "rounds"), rows)]


def check_lines(check: Check) -> list[str]:
    """One check for people; the remedy on a line of its own."""
    node = f"{check.node}: " if check.node else ""
    lines = [f"{check.level:<4}   {safe(node)}{safe(check.id)}: {safe(check.reason)}"]
    return lines + ([f"         -> {safe(check.remedy)}"] if check.remedy and check.level is not Level.OK else [])


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON (schema 1).

    Facts and details of plugins are left out, their shape is the plugins' own.
    """
    keys = ("id", "workload", "target_name", "mode", "why", "routes", "options", "checks")
    document = {key: plain(getattr(plan, key)) for key in keys}
    document |= {key: plain(plan.facts.get(key) or {}) for key in ("measured", "predicted")}
    document |= {"source": plan.source.name, "target": plan.target.name, "refused": bool(plan.refused)}
    return {"schema": 1, **document, "exit_code": int(Exit.REFUSED if plan.refused else Exit.DONE)}


def refusal(plan: Plan) -> Report:
    """Return the report of a move that was not begun."""
    report = Report.of_plan(plan)
    first = plan.refused[0]
    report.outcome, report.exit_code = "refused", int(Exit.REFUSED)
    names = ", ".join(check.id for check in plan.refused)
    message = f"the preflight refused this move: {names}"
    report.error = {"code": "refused", "message": message, "hint": first.remedy, "log_tail": "", "phase": "plan"}
    return report
