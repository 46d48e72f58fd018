"""Two ways to the same daemons: through the nodes' helpers, which hold criu, or over their API alone; or near-live."""

from __future__ import annotations

from typing import Any

from reberth_hooks import (
    Checkpoint,
    Mode,
    Move,
    Node,
    Options,
    Receipt,
    Restored,
    Round,
    Shell,
    Survey,
    Tree,
    UsageError,
    Workload,
    hookimpl,
)
from reberth_lxd.api import identity
from reberth_lxd.held import phases, survey
from reberth_lxd.https import facts as ledger
from reberth_lxd.https import phases as apimove
from reberth_lxd.https import survey as apisurvey
from reberth_lxd.https.connect import over_api
from reberth_lxd.near_live import facts as nearfacts
from reberth_lxd.near_live import phases as near
from reberth_lxd.near_live import survey as nearsurvey


@hookimpl
def reberth_survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: dict[str, Any], options: Options
) -> Survey:
    """The preflight of the way that both nodes have; one of each kind would leave a copy that is not held."""
    if "policy" in options.given and options.policy != "lxd":
        text = f"--policy {options.policy}: the daemons end their rounds by a rule of their own"
        raise UsageError(text, hint="--goal and --iterations are its measures")
    blind = [shell.node.name for shell in (source, target) if over_api(shell.node)]
    if len(blind) == 1:
        text = f"node {blind[0]} is reached by its daemon's API alone, and the other one is not"
        raise UsageError(text, hint=f"both the same way: reberth node add {blind[0]}, or --remotes lxc")
    nearsurvey.refuse_idle_words(options)
    for end, shell in (("source", source), ("target", target)):
        if facts[end]["lxd"].get("usable"):
            identity.refuse_another(shell.node, facts[end]["lxd"])
    if options.mode is Mode.NEAR_LIVE:
        return nearsurvey.survey(workload, target_name, source, target, facts, options)
    way = apisurvey.survey if blind else survey.reberth_survey
    return way(workload, target_name, source, target, facts, options)


@hookimpl
def reberth_prepare(move: Move) -> bool:
    """Make both ends ready while it runs."""
    if _near(move):
        return near.prepare(move)
    return apimove.prepare(move) if over_api(move.plan.source) else phases.reberth_prepare(move)


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    """Let the daemons move it: until the copy is held, or over their API until it runs."""
    if _near(move):
        return near.checkpoint(move)
    return apimove.checkpoint(move) if over_api(move.plan.source) else phases.reberth_checkpoint(move, round)


@hookimpl
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    """The daemon has built the copy already; a near-live one is started."""
    if _near(move):
        return near.restore(move)
    return apimove.restore(move) if over_api(move.plan.source) else phases.reberth_restore(move, receipts)


@hookimpl
def reberth_sync(move: Move) -> list[Tree]:
    """Name what travels while it runs, by the daemons; none where the daemons do the whole move by themselves."""
    return near.sync(move) if _near(move) else []


@hookimpl
def reberth_transfer(move: Move, parcel: Tree) -> Receipt:
    """Let the daemons carry the files of a near-live move."""
    return near.transfer(move, parcel)


@hookimpl
def reberth_commit(move: Move) -> bool:
    """Give up the old one, when the new one was seen running."""
    return near.commit(move) if _near(move) else phases.reberth_commit(move)


@hookimpl
def reberth_rollback(move: Move) -> bool:
    """The source runs: what is left on the target goes."""
    return near.rollback(move) if _near(move) else phases.reberth_rollback(move)


@hookimpl
def reberth_answer(node: Node, op: str, args: dict[str, object], move: Move | None) -> dict[str, object]:
    """Answer in the place of a helper: one that is not there, or that holds nothing of a near-live move."""
    if move is not None and _near(move):
        return nearfacts.answer(move, node, op, args)
    return ledger.reberth_answer(node, op, args, move)


def _near(move: Move) -> bool:
    return move.plan.mode is Mode.NEAR_LIVE
