"""Wrapper `address`: with `--move-address ADDR` the workload's service address moves with it, inside the frozen window.

Off the source when the dump is held, on the target before the restore (sockets bind to it), announced by the target's
helper when the copy lands. What takes it back is in the nodes' journals, so it needs no controller that lives.
"""

from __future__ import annotations

from reberth_address.phases import (
    reberth_checkpoint,
    reberth_commit,
    reberth_prepare,
    reberth_restore,
    reberth_rollback,
)
from reberth_address.survey import reberth_probe, reberth_survey
from reberth_hooks import Declaration, Role, hookimpl

__all__ = [
    "reberth_checkpoint",
    "reberth_commit",
    "reberth_describe",
    "reberth_prepare",
    "reberth_probe",
    "reberth_restore",
    "reberth_rollback",
    "reberth_survey",
]


@hookimpl
def reberth_describe() -> Declaration:
    """A wrapper: it does nothing unless an address is to move."""
    return Declaration(summary="takes a service address along (--move-address)", roles=frozenset({Role.WRAPPER}))
