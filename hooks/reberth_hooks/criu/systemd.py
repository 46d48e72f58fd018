"""Checks of who would start a workload anew on the source when it ends there: two would run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reberth_hooks.protocols import Move
from reberth_hooks.types import Check, Level, Options

# Comms as /proc shows them, cut to 15 characters.
SUPERVISORS = ("supervisord", "runsv", "s6-supervise", "containerd-shim", "conmon", "dockerd", "monit", "circusd")
# Parents that adopt what others have left behind, and start nothing again.
REAPERS = ("systemd", "init", "tini", "dumb-init", "catatonit", "docker-init")
NOTHING = ("", "no", "0", "infinity")
# What of a unit starts it again by itself, and what else may do so when it has ended.
RESTARTS = ("Restart", "RestartForceExitStatus")
TRIGGERS = ("TriggeredBy", "UpheldBy", "BusName", "OnFailure", "OnSuccess")
# What else the end of a unit does, or what a freeze does to it.
ENTANGLED = ("BoundBy", "PropagatesStopTo", "WatchdogUSec", "NeedDaemonReload", "Job")
STARTED_BY = ("WantedBy", "RequiredBy")
KEY = "unit"


def supervisor_of(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return who would start the workload anew when it ends: kind and name, both empty for none.

    Kind `systemd` is a unit of the node, `user` one of a user's own systemd, which the node's systemctl does not know,
    `parent` a known supervisor or engine among its parents.
    """
    own = re.search(r"/user@[0-9]+\.service/(?:[^/]+\.slice/)*([^/]+\.service)(?:/|$)", str(facts["cgroup"]))
    if own:
        return "user", own[1]
    if facts.get("unit"):
        return "systemd", str(facts["unit"]["name"])
    for comm in facts["parents"]:
        if comm.startswith(SUPERVISORS):
            return "parent", comm
    return "", ""


def supervisor_checks(facts: Mapping[str, Any], options: Options, node: str) -> Iterator[Check]:
    """Yield a supervisor would see the source end and start a second one; `--unit` keeps a systemd unit from that."""
    kind, name = supervisor_of(facts)
    if kind == "systemd":
        yield from _unit_checks(facts["unit"], options, node)
        return
    if options.unit:
        text = "no systemd unit of this node runs it, and --unit is given"
        yield Check("unit", Level.FAIL, text, "leave out --unit", node)
    if kind:
        text = f"{_safe(name)} would start it again on the source when it has moved: two would run"
        yield Check("supervisor", Level.FAIL, text, "take it out of its supervisor's hands first", node)
    elif facts["parents"] and facts["parents"][0] not in REAPERS:
        text = f"its parent {_safe(facts['parents'][0])} lives: one that starts it anew when it ends makes two of it"
        remedy = "start it detached (setsid, nohup), or give --skip parent when its parent does no such thing"
        yield Check("parent", Level.FAIL, text, remedy, node)


def _unit_checks(unit: Mapping[str, Any], options: Options, node: str) -> Iterator[Check]:
    name, restarts, triggers = _safe(unit["name"]), _set(unit, RESTARTS), _set(unit, TRIGGERS)
    if unit["error"]:
        restarts = [_safe(unit["error"])]
    if not options.unit and (restarts or triggers):
        text = f"{name} would start it again on the source when it has moved: two would run"
        remedy = "--unit keeps the unit from that"
        if triggers or unit["error"]:
            remedy = "take the unit out of their hands first"
        yield Check("supervisor", Level.FAIL, f"{text} ({', '.join(restarts + triggers)})", remedy, node)
    elif options.unit and (problems := _problems(unit, triggers)):
        text = f"--unit cannot keep {name} from starting it again: {', '.join(problems)}"
        yield Check("unit", Level.FAIL, text, "mend that in the unit first", node)
    else:
        kept = "is kept from starting it again until this run has its end" if options.unit else "will show as ended"
        text = f"it is the systemd unit {name}, which {kept}; nobody supervises the copy"
        yield Check("supervisor", Level.WARN, text, "", node)
        yield from _later_checks(unit, name, node)


def _problems(unit: Mapping[str, Any], triggers: list[str]) -> list[str]:
    """Return why the unit and the workload are not one, or who else would start it."""
    if unit["error"]:
        return [_safe(unit["error"])]
    found = [*triggers, *_set(unit, ENTANGLED)]
    if not unit["main"]:
        found.append(f"its main process {unit['properties'].get('MainPID')} is not of the workload")
    if unit["strangers"]:
        pids = ", ".join(map(str, unit["strangers"][:4]))
        found.append(f"it has other processes, which end with the main one: {pids}")
    if unit["properties"].get("ActiveState") != "active":
        found.append(f"it is {_safe(unit['properties'].get('ActiveState'))}")
    return found


def _later_checks(unit: Mapping[str, Any], name: str, node: str) -> Iterator[Check]:
    """Yield what the unit does on the source once the workload has left."""
    found = unit["properties"]
    if str(found.get("UnitFileState")).startswith("enabled") or _set(unit, STARTED_BY):
        text = f"{name} starts again when this node boots, whether the copy runs or not"
        yield Check("unit-enabled", Level.WARN, text, f"when it has moved: systemctl disable {name}", node)
    if found.get("ExecStopPost"):
        text = f"{name} runs its ExecStopPost= here when it has moved"
        yield Check("unit-stop-post", Level.WARN, text, "", node)


def _set(unit: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return the properties among these that say something, as KEY=VALUE."""
    found = unit.get("properties", {})
    return [_safe(f"{key}={found[key]}") for key in keys if found.get(key, "") not in NOTHING]


def _safe(text: Any) -> str:
    return ascii(str(text))[1:-1]


def unit_details(facts: Mapping[str, Any], options: Options) -> dict[str, str]:
    """Return what the plan keeps for `hold_unit`: with `--unit` the unit's name, empty for none; without it nothing."""
    return {KEY: str((facts.get("unit") or {}).get("name", ""))} if options.unit else {}


def hold_unit(move: Move, pid: int) -> None:
    """With `--unit`, before anything is frozen: the unit starts nothing until the run has an end."""
    name = move.plan.details.get(KEY)
    if name:
        move.source.call("unit_hold", name=name, pid=pid)
