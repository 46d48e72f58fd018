"""Backend `criu`: a bare process tree by the pid of its root, dumped and restored by the criu program alone."""

from __future__ import annotations

from reberth_criu.phases import (
    reberth_checkpoint,
    reberth_commit,
    reberth_prepare,
    reberth_restore,
    reberth_rollback,
    reberth_sync,
)
from reberth_criu.survey import reberth_list, reberth_probe, reberth_survey
from reberth_hooks import Channel, Declaration, Mode, Role, hookimpl

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
        summary="process trees, by the pid of their root",
        roles=frozenset({Role.BACKEND}),
        carries=frozenset({Channel.MEMORY}),
        modes=frozenset({Mode.STOP_AND_COPY, Mode.PRE_COPY, Mode.POST_COPY, Mode.HYBRID}),
        tools=("criu", "systemctl"),
    )
