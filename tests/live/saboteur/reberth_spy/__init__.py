"""A backend that does nothing but write each call of a hook into `SPY_LOG`.

Each line is `HOOK NODE...`: the nodes that the call concerned.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from reberth_hooks import (
    Check,
    Checkpoint,
    Declaration,
    Found,
    Iteration,
    Level,
    Mode,
    Move,
    Node,
    Restored,
    Role,
    Shell,
    Survey,
    Workload,
    hookimpl,
)


def note(hook: str, *nodes: str) -> None:
    """Write down one call."""
    with open(os.environ["SPY_LOG"], "a", encoding="utf-8") as stream:
        stream.write(" ".join([hook, *nodes]) + "\n")


@hookimpl
def reberth_describe() -> Declaration:
    """A backend that would take whatever it is offered."""
    roles = frozenset({Role.BACKEND})
    return Declaration("writes down each call, for tests", roles, modes=frozenset({Mode.STOP_AND_COPY}))


@hookimpl
def reberth_probe(node: Node, shell: Shell) -> dict[str, object]:
    """Always usable."""
    note("probe", node.name)
    return {"usable": True}


@hookimpl
def reberth_list(node: Node, shell: Shell) -> list[Found]:
    """One workload that is always there."""
    note("list", node.name)
    return [Found("spy", "ghost", "running")]


@hookimpl
def reberth_survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: Mapping[str, Any]
) -> Survey:
    """Nothing stands against it but the last check: no test may run the phases of a backend that moves nothing."""
    note("survey", source.node.name, target.node.name)
    return Survey((Check("spy", Level.FAIL, "this backend only looks"),))


def _noted(hook: str, move: Move) -> None:
    note(hook, move.plan.source.name, move.plan.target.name)


@hookimpl
def reberth_prepare(move: Move) -> bool:
    """Never called: the plan is refused."""
    _noted("prepare", move)
    return True


@hookimpl
def reberth_checkpoint(move: Move) -> Checkpoint:
    """Never called."""
    _noted("checkpoint", move)
    return Checkpoint((), Iteration(0))


@hookimpl
def reberth_restore(move: Move) -> Restored:
    """Never called."""
    _noted("restore", move)
    return Restored("ghost", 0)


@hookimpl
def reberth_commit(move: Move) -> bool:
    """Never called."""
    _noted("commit", move)
    return True


@hookimpl
def reberth_rollback(move: Move) -> bool:
    """Never called."""
    _noted("rollback", move)
    return True
