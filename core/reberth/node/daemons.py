"""Operations for backends whose daemons start criu themselves (LXD, Incus): requests to them, their criu's gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from reberth.node import gated, unixhttp
from reberth.node.operations.context import end_of, source_of, target_of
from reberth.node.runs.source import Source

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon


def unix_request(
    daemon: Daemon, progress: Any, path: str, method: str, url: str, body: str = "", timeout_s: float = 60.0
) -> dict[str, Any]:
    """A request to a daemon behind a unix socket; returns status, headers, body."""
    return unixhttp.request(path, method, url, body, timeout_s)


def gate(
    daemon: Daemon,
    progress: Any,
    leaf: str,
    root_pid: int = 0,
    start_ticks: int = 0,
    worker: tuple[str, ...] = (),
    pauses: bool = False,
) -> None:
    """Plant the action script for the criu that a daemon will start; `leaf` names the container's cgroup."""
    end = end_of(daemon)
    if isinstance(end, Source):
        gated.gate_source(end, leaf=leaf, root_pid=root_pid, start_ticks=start_ticks, pauses=pauses)
    else:
        gated.gate_target(end, leaf=leaf, worker=list(worker))


def gate_until(daemon: Daemon, progress: Any, path: str, url: str, cancel: bool) -> None:
    """The daemon's operation: while it goes on the script stays planted; `cancel` it on the way back."""
    end = end_of(daemon)
    if cancel:
        end.run.push_undo("back", "unix_request", path=path, method="DELETE", url=url)
    end.run.journal.write("daemon", socket=path, url=url)


def gate_paused(daemon: Daemon, progress: Any) -> bool:
    """Tell whether the daemon's criu waits to begin its first dump."""
    return gated.gate_paused(source_of(daemon))


def gate_begin(daemon: Daemon, progress: Any) -> None:
    """Let it begin."""
    gated.gate_begin(source_of(daemon))


def gate_hold(daemon: Daemon, progress: Any) -> dict[str, Any] | None:
    """Return the copy that the daemon's criu has built and our script holds; None as long as there is none."""
    return gated.gate_hold(target_of(daemon))


def gate_settled(daemon: Daemon, progress: Any, name: str) -> dict[str, str]:
    """Tell whether this end's daemon stands by the running copy, has ended its part, has undone it, or leaves
    that open.
    """
    end = end_of(daemon)
    state, problem = gated.passed(end) if isinstance(end, Source) else gated.settled(end, name)
    return {"state": state, "problem": problem}


def fence(daemon: Daemon, progress: Any) -> dict[str, Any]:
    """Freeze what the daemon's criu holds on the source."""
    return gated.fence(source_of(daemon))


OPS: dict[str, Callable[..., Any]] = {
    "gate": gate,
    "gate_until": gate_until,
    "gate_paused": gate_paused,
    "gate_begin": gate_begin,
    "gate_hold": gate_hold,
    "gate_settled": gate_settled,
    "fence": fence,
    "unix_request": unix_request,
}
