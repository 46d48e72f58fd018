"""What both ways of looking beforehand have in common: the container that is meant, and what its move must know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from reberth_hooks import Check, Mode, Options, Survey, UsageError, Workload
from reberth_lxd.api import keys, kinds
from reberth_lxd.api.client import RUNNING, Daemon


def refuse_one_daemon(here: Mapping[str, Any], there: Mapping[str, Any], source: str, target: str) -> None:
    """UsageError for two nodes without ssh that are one daemon."""
    if here["fingerprint"] and here["fingerprint"] == there["fingerprint"]:
        raise UsageError(f"{source} and {target} are two names of the same daemon", hint="name another remote")


def running(daemon: Daemon, workload: Workload, server: str) -> dict[str, Any]:
    """The container to move, as its daemon has it; UsageError for one that is not there, or does not run."""
    instance = daemon.get("instances", workload.name)
    if instance is None:
        raise UsageError(f"no container {workload.name} on node {workload.node}", hint=f"reberth ls {workload.node}")
    if instance["status_code"] != RUNNING or instance.get("type", "container") != "container":
        text = f"{workload.name} is {str(instance['status']).lower()}, not a running container"
        hint = kinds.spoken(server, f"lxc move {workload.name} REMOTE: moves it without reberth")
        raise UsageError(text, hint=hint)
    return instance


def told(server: str, found: Iterable[Check], details: dict[str, Any], want: keys.Wanted, options: Options) -> Survey:
    """What was found of both daemons, with what the phases need to know of this move."""
    of_move = {
        "keys": want.to_set(),
        "wanted": asdict(want),
        "keep_source": bool(options.backend_args.get("keep_source")),
        "snapshot_first": bool(options.backend_args.get("snapshot_first")),
    }
    mode = Mode.PRE_COPY if want.precopy else Mode.STOP_AND_COPY
    why = f"{want.why}; {details['why_way']}"
    return Survey(tuple(kinds.in_words_of(server, found)), {**details, **of_move}, mode=mode, why=why)
