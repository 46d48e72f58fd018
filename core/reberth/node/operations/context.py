"""Which end of a run this node is, for operations that one of the two alone can do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from reberth.node.errors import OpError

if TYPE_CHECKING:  # both import what asks here
    from reberth.node.daemon.loop import Daemon
    from reberth.node.runs.source import Source
    from reberth.node.runs.target import Target

PIPE_WAIT_S = 20.0


def end_of(daemon: Daemon) -> Source | Target:
    """This node's end; raises OpError `protocol` when no run is open."""
    if daemon.end is None:
        raise OpError("protocol", "no run is open on this connection")
    return daemon.end


def source_of(daemon: Daemon) -> Source:
    """Return the end, which must be the source; raises OpError `protocol`."""
    found: Source = _in_role(daemon, "source")
    return found


def target_of(daemon: Daemon) -> Target:
    """Return the end, which must be the target; raises OpError `protocol`."""
    found: Target = _in_role(daemon, "target")
    return found


def data_pipe(daemon: Daemon) -> tuple[int, int]:
    """Return the data connection's two descriptors, to read and to write, as soon as it has reached this helper."""
    if not daemon.bulk_ready.wait(PIPE_WAIT_S) or daemon.bulk is None:
        raise OpError("protocol", "no data connection was opened")
    return daemon.bulk


def cost(daemon: Daemon, started_s: float, before_bytes: int) -> dict[str, Any]:
    """Return what a tree has taken of the connection: its data as it went over, and the time."""
    return {"wire_bytes": daemon.packer.wire_bytes - before_bytes, "seconds": time.monotonic() - started_s}


def _in_role(daemon: Daemon, role: str) -> Any:
    if daemon.end is None or daemon.end.run.role != role:
        raise OpError("protocol", f"this node is not the {role} of a run")
    return daemon.end
