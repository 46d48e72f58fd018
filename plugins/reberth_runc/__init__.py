"""Backend `runc`: an OCI container by its id, with its bundle; runc drives CRIU, and CRIU's hooks are held by us."""

from __future__ import annotations

from reberth_hooks import Channel, Declaration, Mode, Role, hookimpl
from reberth_runc.phases import (
    reberth_checkpoint,
    reberth_commit,
    reberth_prepare,
    reberth_restore,
    reberth_rollback,
    reberth_sync,
)
from reberth_runc.survey import reberth_list, reberth_probe, reberth_survey

__all__ = [
    "reberth_checkpoint",
    "reberth_commit",
    "reberth_describe",
    "reberth_list",
    "reberth_prepare",
    "reberth_probe",
    "reberth_restore",
    "reberth_rollback",
    "reberth_survey",
    "reberth_sync",
]


@hookimpl
def reberth_describe() -> Declaration:
    """A backend whose memory travels before the freeze, in it, or after it."""
    return Declaration(
        summary="OCI containers of runc, by their id",
        roles=frozenset({Role.BACKEND}),
        carries=frozenset({Channel.MEMORY}),
        modes=frozenset({Mode.STOP_AND_COPY, Mode.PRE_COPY, Mode.POST_COPY, Mode.HYBRID}),
        tools=("runc", "criu", "du", "systemctl"),
        options=frozenset({"root", "allow_hooks", "allow_mounts", "allow_devices"}),
    )
