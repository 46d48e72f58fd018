"""Whether a run holds the workload already, or its name on the target: asked before anything else is said of them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from reberth.run.journal import Journal, runs
from reberth_hooks import BusyError, Check, Level, ReberthError, Shell

NAMES = ("name", "bundle")  # checks that speak of what stands on the target under the name


def busy(workload: str, node: str, run_id: str) -> BusyError:
    """Return the error for a workload that another run holds."""
    hint = f"to see it: reberth status {run_id}; to end it: reberth recover {run_id}"
    return BusyError(f"{workload} on node {node} is busy with run {run_id}", hint=hint)


def refuse_busy(shell: Shell, role: str, workload: str, start_ticks: int = 0) -> None:
    """Raise BusyError when an open run of this node has this workload; a process is its pid and `start_ticks`."""
    found: list[dict[str, Any]] = []
    with suppress(ReberthError):  # who cannot tell it now says it when the run is opened
        found = shell.call("runs")
    for run in found:
        if run.get("workload") != workload or run.get("gone"):
            continue
        known = run.get("start_ticks", 0)
        if not (known and start_ticks and run.get("role") == role and known != start_ticks):
            raise busy(workload, shell.node.name, str(run["id"]))


def name_of_a_run(checks: Iterable[Check], node: str, workload: str) -> tuple[Check, ...]:
    """Return the checks.

    What stands on the target under the name of an unfinished run is that run's, and is not deleted.
    """
    made = tuple(checks)
    if not any(check.level is Level.FAIL and check.id in NAMES for check in made):
        return made
    run_id = _unfinished(node, workload)
    remedy = f"it belongs to run {run_id}, which is not finished: reberth recover {run_id}"
    return tuple(
        replace(check, remedy=remedy) if run_id and check.level is Level.FAIL and check.id in NAMES else check
        for check in made
    )


def _unfinished(node: str, workload: str) -> str:
    """Return the newest run of this controller that is not finished and has this workload at one of its ends."""
    from reberth.run.outcome import is_unfinished

    for run_id in runs():
        journal = Journal(run_id)
        plan = (journal.last("plan") or {}).get("plan")
        if not plan or not is_unfinished(journal):
            continue
        backend = plan["workload"]["backend"]
        ends = ((plan["source"]["name"], plan["workload"]["name"]), (plan["target"]["name"], plan["target_name"]))
        if (node, workload) in [(where, f"{backend}/{name}") for where, name in ends]:
            return run_id
    return ""
