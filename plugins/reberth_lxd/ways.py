"""Two ways to the same daemons: through the nodes' helpers, which hold criu, or over their API alone."""

from __future__ import annotations

from typing import Any

from reberth_hooks import (
    Checkpoint,
    Move,
    Options,
    Receipt,
    Restored,
    Round,
    Shell,
    Survey,
    UsageError,
    Workload,
    hookimpl,
)
from reberth_lxd import apimove, apisurvey, phases, survey
from reberth_lxd.https import over_api


@hookimpl
def reberth_survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: dict[str, Any], options: Options
) -> Survey:
    """The preflight of the way that both nodes have; one of each kind would leave the copy that nobody holds."""
    if "policy" in options.given and options.policy != "lxd":
        text = f"--policy {options.policy}: the daemons end their rounds by a rule of their own"
        raise UsageError(text, hint="--goal and --iterations are its measures")
    blind = [shell.node.name for shell in (source, target) if over_api(shell.node)]
    if len(blind) == 1:
        text = f"node {blind[0]} is reached by its daemon's API alone, and the other one is not"
        raise UsageError(text, hint=f"both the same way: reberth node add {blind[0]}, or --remotes lxc")
    way = apisurvey.survey if blind else survey.reberth_survey
    return way(workload, target_name, source, target, facts, options)


@hookimpl
def reberth_prepare(move: Move) -> bool:
    """Make both ends ready while it runs."""
    return apimove.prepare(move) if over_api(move.plan.source) else phases.reberth_prepare(move)


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    """Let the daemons move it: until the copy is held, or over their API until it runs."""
    return apimove.checkpoint(move) if over_api(move.plan.source) else phases.reberth_checkpoint(move, round)


@hookimpl
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    """The daemon has built the copy already."""
    return apimove.restore(move) if over_api(move.plan.source) else phases.reberth_restore(move, receipts)
