"""What a plan is made of: the way between the nodes and the workload's memory, measured while nothing is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from reberth.config.request import Request
from reberth.connect import boot
from reberth.connect import process as shell
from reberth.connect.helper import HelperShell
from reberth.plan import compression
from reberth_hooks import Mode, ReberthError, Shell, Survey
from reberth_hooks.ssh import join_straight

LINK_S, PLAN_LINK_S = 0.5, 1.0  # a plan has the time, as it watches the memory for two seconds too
LEAST_BYTES = 16 << 20  # less memory than this is moved as soon as it is measured
FEW_BYTES, MOST_BYTES = 8 << 20, 64 << 20  # over the link: what buffers do not hide, what a fast one needs for its pace
MEMORY_SHARE = 4  # a move spends no more on the look than this part of the workload's memory


def link_bytes_s(
    source: HelperShell, target: HelperShell, limit_bytes: int = MOST_BYTES, limit_s: float = LINK_S
) -> float | None:
    """Bytes per second from source to target through this machine, as pages travel; None when it cannot be told.

    It takes `limit_s`, or `limit_bytes` of random data where that is sooner.
    """
    processes: list[shell.Process] = []
    try:
        argv = [
            shell.route_argv(e.route, boot.bulk_argv(e.call("socket"), "probe"), bulk=True) for e in (source, target)
        ]
        processes.append(shell.connect(argv[0], stdin=shell.NOWHERE, stderr=shell.NOWHERE))
        feed = processes[0].stdout
        assert feed is not None
        processes.append(shell.connect(argv[1], stdin=feed, stdout=shell.NOWHERE, stderr=shell.NOWHERE))
        feed.close()
        return _pumped(source, target, limit_bytes, limit_s)
    except ReberthError:
        return None
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            shell.end(process)


def straight_bytes_s(
    source: HelperShell, target: HelperShell, limit_bytes: int = MOST_BYTES, limit_s: float = LINK_S
) -> float | None:
    """Return the same without this machine, as trees travel where the target's `direct` allows it.

    None when they do not.
    """
    allowed = target.node.options_of("ssh").get("direct")
    try:
        if list(join_straight(source, target, allowed, ("probe",))):
            return _pumped(source, target, limit_bytes, limit_s)
    except ReberthError:
        pass  # nor will the move itself be joined so, which it says then
    return None


def _pumped(source: HelperShell, target: HelperShell, limit_bytes: int, limit_s: float) -> float | None:
    receiving = target.begin("link_recv")
    source.begin("link_send", seconds=limit_s, limit_bytes=limit_bytes).result(60.0)
    got = receiving.result(60.0)
    return got["bytes"] / got["seconds"] if got["seconds"] > 0 else None


def look(
    request: Request, source: Shell, target: Shell, survey: Survey, fit: Sequence[Mode], carrier: str | None = None
) -> dict[str, Any]:
    """Return what can be told: for a plan all figures, for a move only those that its choices depend on.

    Answers `link_bytes_s`, `pages_link_bytes_s` where pages that follow take another way, `copy_bytes_s` of the slower
    node, what `dirty_rate` says (docs/helper.md), and in `compress` what `reberth.plan.compression.look` does, unless
    `carrier` is None: then a backend carries by itself.
    """
    memory_bytes = survey.details.get("memory_bytes", 0)
    open_choice = request.options.mode is Mode.AUTO and len(fit) > 1 and memory_bytes >= LEAST_BYTES
    packs = carrier == "" and request.options.compress == "auto" and memory_bytes >= compression.FROM_BYTES
    found: dict[str, Any] = {}
    helpers = [end for end in (source, target) if isinstance(end, HelperShell)]
    if (request.figures or open_choice or packs) and len(helpers) == 2:
        share = MOST_BYTES if request.figures else memory_bytes // MEMORY_SHARE
        found.update(_links(helpers[0], helpers[1], min(MOST_BYTES, max(FEW_BYTES, share)), request.figures))
        with contextlib.suppress(ReberthError):
            found["copy_bytes_s"] = min(end.call("pace")["copy_bytes_s"] for end in (source, target))
    if survey.details.get("pid") and (request.figures or (open_choice and Mode.PRE_COPY in fit)):
        with contextlib.suppress(ReberthError):
            found.update(source.call("dirty_rate", pid=survey.details["pid"]))
    if carrier is not None and len(helpers) == 2:
        with contextlib.suppress(ReberthError):
            pid = int(survey.details.get("pid") or 0)
            found["compress"] = compression.look(request.options, helpers, pid, found, carrier)
    return {key: value for key, value in found.items() if value is not None}


def _links(source: HelperShell, target: HelperShell, limit_bytes: int, figures: bool) -> dict[str, float | None]:
    """Return the way of trees, and in a plan also that of pages which follow, where the two differ."""
    limits = limit_bytes, PLAN_LINK_S if figures else LINK_S
    trees = straight_bytes_s(source, target, *limits)
    if trees is None:
        return {"link_bytes_s": link_bytes_s(source, target, *limits)}
    return {"link_bytes_s": trees, "pages_link_bytes_s": link_bytes_s(source, target, *limits) if figures else None}
