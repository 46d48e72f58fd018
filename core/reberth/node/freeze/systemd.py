"""The systemd unit of a workload: found by its processes, kept from starting it again during a run, and given back.

A drop-in on disk does it: no restart, and a condition on the run's open journal, so that whatever wants to start the
unit meanwhile (an operator, a boot, another unit) starts nothing. Tried with systemd 257: docs/decisions/016.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.system import procs, spawn
from reberth.node.system.durable import sync_dir, write_whole

if TYPE_CHECKING:
    from reberth.node.runs.run import Run

BOOTED = "/run/systemd/system"
DROP_INS = "/etc/systemd/system"
# The last name of the directory is the one that counts: drop-ins are read in the order of their names.
FILE = "zzz-reberth-{id}.conf"
DROP_IN = """# Made by reberth for run {id}, which removes it: while that run is open nobody starts this unit here.
[Unit]
ConditionPathExists=!{journal}
FailureAction=none
SuccessAction=none
[Service]
Restart=no
RestartForceExitStatus=
"""
SHOWN = (
    *("Id", "MainPID", "ControlGroup", "ActiveState", "SubState", "Job", "Type", "NeedDaemonReload", "UnitFileState"),
    *("Restart", "RestartForceExitStatus", "TriggeredBy", "UpheldBy", "BusName", "OnFailure", "OnSuccess", "BoundBy"),
    *("PropagatesStopTo", "WantedBy", "RequiredBy", "WatchdogUSec", "ExecStopPost"),
)
# Others in their cgroups are not theirs: logins, and whatever a user's own manager runs.
HOSTS_OF_OTHERS = ("ssh.service", "sshd.service", "user@")
END_S = 20.0


def of_tree(pids: list[int]) -> dict[str, Any]:
    """Return the unit that has one of these processes as its main one or in its cgroup; empty when none has.

    `name`, `properties`, `main` (the main process is among them), `strangers` (other processes of the unit), `error`
    (systemctl cannot be asked, and only the cgroup's name tells of a unit).
    """
    groups = {pid: _cgroup(pid) for pid in pids}
    named = next((name for path in groups.values() for name in path.split("/") if _counts(name)), "")
    if not named and not os.path.isdir(BOOTED):
        return {}
    try:
        units = show("*.service")
    except OpError as error:
        return {"name": named, "error": error.message} if named else {}
    found = [unit for unit in units if int(unit.get("MainPID") or 0) in groups]
    found += [u for u in units if _counts(u["Id"]) and any(cgroup.inside(g, group_of(u)) for g in groups.values())]
    if not found:
        return {"name": named, "error": f"systemctl knows no {named}"} if named else {}
    unit = found[0]
    main = int(unit.get("MainPID") or 0)
    strangers = [p for p in _others(unit) if p not in groups]
    return {
        "name": unit["Id"],
        "properties": unit,
        "main": main in groups or not main,
        "strangers": strangers,
        "error": "",
    }


def _cgroup(pid: int) -> str:
    with contextlib.suppress(OpError, ProcessLookupError):
        return cgroup.of_pid(pid)
    return ""


def _counts(name: str) -> bool:
    return name.endswith(".service") and not name.startswith(HOSTS_OF_OTHERS)


def group_of(unit: dict[str, str]) -> str:
    """Return the directory of a unit's cgroup; one that nothing is inside when it has none."""
    group = unit.get("ControlGroup", "")
    return os.path.normpath(cgroup.mount_point() + group) if group.strip("/") else "/nowhere"


def _others(unit: dict[str, str]) -> list[int]:
    return [p for p in cgroup.pids(group_of(unit)) if procs.alive(p)]


def show(name: str) -> list[dict[str, str]]:
    """Return what systemctl says of a unit, or of all loaded ones of a pattern.

    Raises OpError when it cannot be asked.
    """
    text = _systemctl("show", f"--property={','.join(SHOWN)}", "--", name)
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in text.split("\n\n")]
    return [block for block in blocks if block.get("Id")]


def _systemctl(*words: str) -> str:
    done = spawn.run(["systemctl", *words], timeout_s=30.0)
    if done["code"]:
        raise OpError("unit", f"systemctl {words[0]} ended with {done['code']}", tail=done["err"][-1000:])
    return str(done["out"])


def _state(name: str) -> dict[str, str]:
    found = show(name)
    if not found:
        raise OpError("unit", f"systemctl says nothing of {name}")
    return found[0]


def hold(run: Run, name: str, pid: int) -> None:
    """Keep a unit from starting the workload `pid` again until the run has an end; raises OpError `unit`.

    What it wrote goes again with an abort, when the workload runs, or with a commit, when the unit has ended.
    """
    if "/" in name or not name.endswith(".service"):
        raise OpError("bad-argument", f"{name!r} is no service")
    path = os.path.join(DROP_INS, f"{name}.d", FILE.format(id=run.id))
    run.push_undo("abort", "unit_free", path=path, unit=name)
    run.push_undo("commit", "unit_free", path=path, unit=name, ended=True)
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    write_whole(path, DROP_IN.format(id=run.id, journal=run.journal.path), 0o644)
    sync_dir(os.path.dirname(path))
    _systemctl("daemon-reload")
    now = _state(name)
    tree = {task.pid for task in procs.tree(pid)}
    wrong = [f"{key}={now[key]}" for key, good in HELD.items() if now.get(key, "") not in good]
    wrong += [f"process {p} is not of the workload" for p in _others(now) if p not in tree]
    wrong += [] if int(now.get("MainPID") or 0) in (0, *tree) else ["another main process"]
    if wrong:
        raise OpError("unit", f"{name} cannot be kept from starting again: {', '.join(wrong)}")


# What must be so, or nothing is frozen: another drop-in may say otherwise, and it may be ending this very moment.
HELD = {
    "ActiveState": ("active",),
    "Restart": ("no",),
    "RestartForceExitStatus": ("",),
    "NeedDaemonReload": ("no", ""),
    "Job": ("", "0"),
}


def free(record: dict[str, Any]) -> None:
    """Take the drop-in away; after a commit only when the unit has come to its end, or it would still restart."""
    name, path = str(record["unit"]), str(record["path"])
    if record.get("ended") and os.path.exists(path):
        _wait_end(name)
    for written in (path, f"{path}.new"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(written)
    with contextlib.suppress(OSError):  # others have drop-ins there
        os.rmdir(os.path.dirname(path))
    _systemctl("daemon-reload")
    state = "" if record.get("ended") else _state(name).get("ActiveState")
    if state in ("inactive", "failed"):
        raise OpError("unit", f"{name} has ended meanwhile, and was not started again", hint=f"systemctl start {name}")


def _wait_end(name: str) -> None:
    deadline = time.monotonic() + END_S
    while True:
        now = _state(name)
        exited = now.get("ActiveState") == "active" and now.get("SubState") == "exited"
        if (exited or now.get("ActiveState") in ("inactive", "failed")) and now.get("Job", "") in ("", "0"):
            return
        if time.monotonic() > deadline:
            raise OpError("unit", f"{name} is still {now.get('ActiveState')}: it is kept from starting again")
        time.sleep(0.05)
