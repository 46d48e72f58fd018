"""A fake OCI runtime as runc and crun are: `list`, `state`, `checkpoint`, `restore`, `delete`, `kill`, `--version`.

Its record of a container is a file below /run/TOOL. It finds CRIU's action script where the real ones' CRIU does: in
the configuration file that CRIU_CONFIG_FILE names.
"""

from __future__ import annotations

import json
from pathlib import Path

from reberth.testing.machine import CGROUPS, Machine, ToolError, option, script_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VALUED = ("--root", "--image-path", "--work-path", "--bundle", "--format", "-f", "-b", "--manage-cgroups-mode", "--log")


class Containers:
    """The runtime's records."""

    def __init__(self, machine: Machine, tool: str) -> None:
        self.machine = machine
        self.place = machine.path(f"/run/{tool}")

    def file(self, name: str) -> Path:
        """Return where one is kept."""
        return self.place / f"{name}.json"

    def get(self, name: str) -> dict[str, Any]:
        """One with its present status; ToolError when there is none."""
        if not self.file(name).exists():
            raise ToolError(f"error: container {name} does not exist")
        found: dict[str, Any] = json.loads(self.file(name).read_text())
        task = self.machine.task(found["pid"])
        frozen = task is not None and self.machine.is_frozen(task["cgroup"])
        return {**found, "status": "stopped" if task is None else "paused" if frozen else "running"}

    def all(self) -> list[dict[str, Any]]:
        """All of them."""
        return [self.get(path.stem) for path in sorted(self.place.glob("*.json"))]

    def put(self, name: str, bundle: str, pid: int) -> None:
        """Remember one."""
        self.place.mkdir(parents=True, exist_ok=True)
        self.file(name).write_text(json.dumps({"id": name, "bundle": bundle, "pid": pid}))

    def forget(self, name: str) -> None:
        """Remember it no longer."""
        self.file(name).unlink(missing_ok=True)


def _plain(words: list[str]) -> list[str]:
    """The words that are neither options nor values of options."""
    found, skip = [], False
    for word in words:
        if not skip and not word.startswith("-"):
            found.append(word)
        skip = not skip and word in VALUED
    return found


def _restore(known: Containers, words: list[str], name: str) -> None:
    bundle, machine = option(words, "--bundle") or option(words, "-b"), known.machine
    if known.file(name).exists():
        raise ToolError(f"error: container {name} exists")
    if not machine.path(f"{bundle}/config.json").exists():
        raise ToolError(f"error: {bundle} is no bundle")
    cgroup = f"{CGROUPS}/{name}"
    machine.make_cgroup(cgroup)
    core = next(machine.path(option(words, "--image-path")).glob("core-*.img"))
    known.put(name, bundle, json.loads(core.read_text())["pid"])
    try:
        machine.restore(option(words, "--image-path"), script_of(words), cgroup, container=name)
    except BaseException:
        known.forget(name)
        raise


def fail(machine: Machine, words: list[str]) -> None:
    """A restore that fails leaves the empty cgroup that it made first (runc 1.1.15, crun 1.21)."""
    if "restore" in words:
        machine.make_cgroup(f"{CGROUPS}/{words[-1]}")


def main(machine: Machine, words: list[str]) -> None:
    """Do one command."""
    known = Containers(machine, machine.tool)
    if "--version" in words:
        machine.say(f"{known.place.name} version 1.3.0\n+CRIU")
        return
    command, *names = _plain(words)
    if command == "list":
        machine.say(json.dumps(known.all() or None))
    elif command == "state":
        machine.say(json.dumps(known.get(names[0])))
    elif command == "checkpoint":
        leave = "--leave-running" in words
        machine.dump(known.get(names[0])["pid"], option(words, "--image-path"), script_of(words), leave=leave)
        if not leave:
            known.forget(names[0])
            machine.drop_cgroup(f"{CGROUPS}/{names[0]}")
    elif command == "restore":
        _restore(known, words, names[0])
    elif command == "delete":
        if known.file(names[0]).exists():
            machine.end(known.get(names[0])["pid"])
            machine.drop_cgroup(f"{CGROUPS}/{names[0]}")
        elif "--force" not in words and "-f" not in words:
            raise ToolError(f"error: container {names[0]} does not exist")
        known.forget(names[0])
    else:
        raise ToolError(f"error: this fake runtime has no {command!r}")
