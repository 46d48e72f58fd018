"""The hook specifications, by phase. A plugin implements those it needs and only the arguments it wants.

Phase hooks are called on exactly one backend or transport of the plan, plus wrappers (`hookimpl(wrapper=True)`) of any
plugin enabled on the node. A plain phase hook of a plugin that is neither is refused at load. Hook functions are
stateless: what must last goes into the answer, `move.note()` or the node's journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reberth_hooks.markers import hookspec

if TYPE_CHECKING:
    import typer

    from reberth_hooks.declare import Declaration
    from reberth_hooks.protocols import Controller, Move, Shell
    from reberth_hooks.types import (
        Checkpoint,
        Event,
        Found,
        Node,
        Options,
        Receipt,
        Restored,
        Round,
        Route,
        Survey,
        Tree,
        Workload,
    )


@hookspec(firstresult=True)
def reberth_describe() -> Declaration:
    """Say what this plugin is (a `Declaration`); called once at load, must have no side effect."""
    raise AssertionError


@hookspec
def reberth_commands(app: typer.Typer, controller: Controller) -> None:
    """Add commands to the command line; called when the command is needed."""


@hookspec(firstresult=True)
def reberth_connect(node: Node) -> Route:
    """Say how the node is reached, as data; called on the node's connector before anything else."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_answer(node: Node, op: str, args: dict[str, object], move: Move | None) -> dict[str, object]:
    """Answer an operation of the protocol (`hello`, `facts`, ...) for a node without a helper, or a near-live move."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_probe(node: Node, shell: Shell) -> dict[str, object]:
    """Facts about this plugin's tools on a node (versions, features); `usable` tells whether it can work there."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_list(node: Node, shell: Shell) -> list[Found]:
    """The workloads that this backend sees on a node; must not disturb them."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: dict[str, object], options: Options
) -> Survey:
    """The backend's preflight of one move: checks and the details its phases need; nothing is frozen or written."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_prepare(move: Move) -> bool:
    """Make both nodes ready while the workload runs; every effect is first pushed as undo (helper op `undo`)."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_receive(move: Move, round: Round) -> bool:
    """Open the way for data before the freeze; called on each transport of the plan."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_sync(move: Move) -> list[Tree]:
    """Trees to carry while the workload runs (a container's filesystem); a backend without any leaves this out."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    """One round; the final one leaves the workload frozen, complete on disk and fenced."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_transfer(move: Move, parcel: Tree) -> Receipt:
    """Carry one parcel to the target and verify it there; called on the transport routed for its channel."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    """Build the copy on the target and hold it just before it would run."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_commit(move: Move) -> bool:
    """Give up the source, after the target has landed; idempotent."""
    raise AssertionError


@hookspec(firstresult=True)
def reberth_rollback(move: Move) -> bool:
    """Revive the source, after the target's copy is gone; idempotent."""
    raise AssertionError


@hookspec
def reberth_event(event: Event) -> None:
    """Something happened; every observer is called one by one and its errors are dropped."""
