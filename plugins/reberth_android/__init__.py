"""Android: a LineageOS phone with its own sshd as a node, and the commands that set that up over adb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reberth_android.route import reberth_connect
from reberth_hooks import Channel, Declaration, Mode, Move, Receipt, Role, Round, Tree, hookimpl
from reberth_hooks.ssh import carry_tree

if TYPE_CHECKING:
    import typer

    from reberth_hooks import Controller

__all__ = ["reberth_commands", "reberth_connect", "reberth_describe", "reberth_receive", "reberth_transfer"]


@hookimpl
def reberth_describe() -> Declaration:
    """A connector, a transport for phones that have Python, and the commands of `reberth android`."""
    return Declaration(
        summary="sshd of a LineageOS phone: sets it up, reaches it and carries files",
        roles=frozenset({Role.CONNECTOR, Role.TRANSPORT, Role.COMMANDS}),
        carries=frozenset({Channel.FILES}),
        modes=frozenset({Mode.STOP_AND_COPY}),
        options=frozenset({"serial", "port", "device_port", "forward", "identity", "known_hosts", "config", "python"}),
    )


@hookimpl
def reberth_commands(app: typer.Typer, controller: Controller) -> None:
    """Adds `reberth android`."""
    from reberth_android.cli import android_commands

    app.add_typer(android_commands(controller), name="android")


@hookimpl
def reberth_receive(move: Move, round: Round) -> bool:
    """Open the data connections while the workload runs: a handshake has no place in the frozen window."""
    move.open_pipe()
    for shell in (move.source, move.target):
        shell.call("pipe_ready")
    return True


@hookimpl
def reberth_transfer(move: Move, parcel: Tree) -> Receipt:
    """Send one tree between two nodes that have helpers; a phone without Python keeps checkpoints instead."""
    return carry_tree(move, parcel)
