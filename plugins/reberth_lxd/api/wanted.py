"""What both ways of looking beforehand have in common: the container that is meant, and what its move must know."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reberth_hooks import Check, CommandError, Mode, Options, Survey, UsageError, Workload
from reberth_lxd.api import keys, kinds
from reberth_lxd.api.client import RUNNING, Daemon


def refuse_one_daemon(here: Mapping[str, Any], there: Mapping[str, Any], source: str, target: str) -> None:
    """UsageError for two nodes that are one daemon."""
    if here["fingerprint"] and here["fingerprint"] == there["fingerprint"]:
        raise UsageError(f"{source} and {target} are two names of the same daemon", hint="name another remote")


def other_pool(options: Options) -> str:
    """Return the pool that was asked for, empty for none."""
    return str(options.backend_args.get("lxd_pool") or "")


def running(daemon: Daemon, workload: Workload, server: str) -> dict[str, Any]:
    """Return the container to move, as its daemon has it; UsageError for one that is not there, or does not run."""
    instance = daemon.get("instances", workload.name)
    if instance is None:
        raise _missing(daemon, workload, server)
    here, member = str(daemon.environment.get("server_name") or ""), str(instance.get("location") or "none")
    if daemon.environment.get("server_clustered") and member not in ("none", here):
        text = f"{workload.name} is on {member}, another member of the cluster than node {workload.node} ({here})"
        raise UsageError(text, hint=f"name the node of {member}")
    if instance["status_code"] != RUNNING or instance.get("type", "container") != "container":
        text = f"{workload.name} is {str(instance['status']).lower()}, not a running container"
        hint = kinds.spoken(server, f"lxc move {workload.name} REMOTE: moves it without reberth")
        raise UsageError(text, hint=hint)
    return instance


def _missing(daemon: Daemon, workload: Workload, server: str) -> UsageError:
    """No container of the default project has the name; one of another project is not taken for it."""
    projects: Sequence[str] = ()
    with contextlib.suppress(CommandError):  # a client that may not look
        projects = daemon.projects_of(workload.name)
    text = f"no container {workload.name} on node {workload.node}"
    if not projects:
        return UsageError(text, hint=f"reberth ls {workload.node}")
    text += f" in the project default, which alone reberth moves; there is one in {', '.join(projects)}"
    return UsageError(text, hint=kinds.spoken(server, f"lxc move --project {projects[0]}: moves it without reberth"))


def told(server: str, found: Iterable[Check], details: dict[str, Any], want: keys.Wanted, options: Options) -> Survey:
    """Return what was found of both daemons, with what the phases need to know of this move."""
    of_move = {
        "keys": want.to_set(),
        "wanted": asdict(want),
        "keep_source": bool(options.backend_args.get("keep_source")),
        "snapshot_first": bool(options.backend_args.get("snapshot_first")),
        "other_pool": other_pool(options),
    }
    mode = Mode.PRE_COPY if want.precopy else Mode.STOP_AND_COPY
    why = f"{want.why}; {details['why_way']}"
    return Survey(tuple(kinds.in_words_of(server, found)), {**details, **of_move}, mode=mode, why=why)
