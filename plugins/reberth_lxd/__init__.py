"""Backend `lxd`: containers of LXD and Incus, moved by their own daemons, which are held at the moments that decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reberth_hooks import Controller, Declaration, Mode, Role, hookimpl
from reberth_lxd.dispatch import (
    reberth_answer,
    reberth_checkpoint,
    reberth_commit,
    reberth_prepare,
    reberth_restore,
    reberth_rollback,
    reberth_survey,
    reberth_sync,
    reberth_transfer,
)
from reberth_lxd.held.survey import reberth_list, reberth_probe
from reberth_lxd.https.connect import reberth_connect

if TYPE_CHECKING:
    import typer

# The daemons decide these by themselves, and cannot be told.
IGNORED = (
    *("bandwidth", "compress", "keep_images", "lazy_restore", "max_downtime", "memory_ahead"),
    *("move_address", "tcp_close", "tcp_established"),
)
__all__ = [
    "reberth_answer",
    "reberth_checkpoint",
    "reberth_commands",
    "reberth_commit",
    "reberth_connect",
    "reberth_describe",
    "reberth_list",
    "reberth_prepare",
    "reberth_probe",
    "reberth_restore",
    "reberth_rollback",
    "reberth_survey",
    "reberth_sync",
    "reberth_transfer",
]


@hookimpl
def reberth_commands(app: typer.Typer, controller: Controller) -> None:
    """Adds `reberth lxd`."""
    from reberth_lxd.client.alias import commands

    app.add_typer(commands(controller), name="lxd")


@hookimpl
def reberth_describe() -> Declaration:
    """A backend whose daemons freeze, carry and kill by themselves."""
    return Declaration(
        summary="containers of LXD and Incus",
        roles=frozenset({Role.BACKEND, Role.COMMANDS, Role.CONNECTOR}),
        modes=frozenset({Mode.STOP_AND_COPY, Mode.PRE_COPY, Mode.NEAR_LIVE}),
        tools=("criu", "head"),
        options=frozenset({"certificate", "identity", "socket", "url"}),
        managed=True,
        ignores=frozenset(IGNORED),
        knows=frozenset({"force_stop", "keep_source", "lxd_mode", "lxd_pool", "snapshot_first"}),
    )
