"""The lab: two or more nodes on one machine, to try reberth and to test it with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reberth_hooks import Declaration, Role, hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def reberth_describe() -> Declaration:
    """Commands only: no migration ever calls the lab."""
    return Declaration(
        summary="two or more nodes on this machine, to try and to test with",
        roles=frozenset({Role.COMMANDS}),
    )


@hookimpl
def reberth_commands(app: typer.Typer) -> None:
    """Adds `reberth lab`."""
    from reberth_lab.cli import lab_commands

    app.add_typer(lab_commands(), name="lab")
