"""A node that is a directory: its files, and its processes as files; standard library only, fake tools import it.

`root/` is the node's file system, in it `proc/PID/task.json` is a process: its memory (a random word that no other
process has), its cgroup and whether it may run. A cgroup is a directory with the files that matter; a process runs when
its state is `running` and none of its cgroups is frozen. What CRIU does with processes is done by `dump` and `restore`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:  # a fake tool starts twice as fast without what it rarely needs
    from collections.abc import Iterator
    from typing import Any

CGROUPS = "/sys/fs/cgroup"


class ToolError(Exception):
    """A fake tool gives up; the words go to its standard error and the exit status is 1."""


class Machine:
    """One node's directory."""

    def __init__(self, directory: str | Path) -> None:
        self.dir = Path(directory)
        self.root = self.dir / "root"
        self.calls = self.dir / "calls.jsonl"
        self.failures = self.dir / "fail.json"
        self.programs: dict[str, str] = {}  # fake tools: name -> file
        self.tool = ""  # the one that runs now
        self.stdin = ""
        self.said: list[str] = []

    # Files

    def path(self, word: str) -> Path:
        """Return where a path of the node really is; one that is real already stays."""
        if word == str(self.root) or word.startswith(f"{self.root}/"):
            return Path(word)
        return Path(f"{self.root}{os.path.normpath('/' + word)}")

    # Processes

    def tasks(self) -> list[dict[str, Any]]:
        """All processes."""
        return [json.loads(p.read_text()) for p in sorted(self.root.glob("proc/*/task.json"))]

    def task(self, pid: int) -> dict[str, Any] | None:
        """One process, or None."""
        try:
            found: dict[str, Any] = json.loads((self.root / f"proc/{pid}/task.json").read_text())
        except FileNotFoundError:
            return None
        return found

    def put(self, task: dict[str, Any]) -> None:
        """Write a process down, whole."""
        place = self.root / f"proc/{task['pid']}"
        place.mkdir(parents=True, exist_ok=True)
        beside = place / f".{os.urandom(4).hex()}"
        beside.write_text(json.dumps(task))
        beside.rename(place / "task.json")

    def end(self, pid: int) -> None:
        """The process is no more."""
        import shutil

        shutil.rmtree(self.root / f"proc/{pid}", ignore_errors=True)

    def runs(self, task: dict[str, Any]) -> bool:
        """Tell whether the process makes progress now."""
        return task["state"] == "running" and not self.is_frozen(task["cgroup"])

    # Cgroups, by their paths on the node

    def make_cgroup(self, name: str) -> None:
        """A cgroup as a directory; an action script that waits for `frozen 1` finds it at once."""
        place = self.path(name)
        if not place.is_dir():
            place.mkdir(parents=True)
            (place / "cgroup.freeze").write_text("0\n")
            (place / "cgroup.events").write_text("populated 1\nfrozen 1\n")
            (place / "cgroup.procs").write_text("")

    def drop_cgroup(self, name: str) -> None:
        """Remove it, if no process is in it."""
        import shutil

        if not any(t["cgroup"] == name for t in self.tasks()):
            shutil.rmtree(self.path(name), ignore_errors=True)

    def is_frozen(self, name: str) -> bool:
        """Tell whether this cgroup or one above it is frozen."""
        place = self.path(name)
        while place.name and place != self.root:
            file = place / "cgroup.freeze"
            if file.exists() and file.read_text().strip().startswith("1"):
                return True
            place = place.parent
        return False

    def cgroup_of_tool(self) -> str:
        """The cgroup that the calling tool was started in: what it restores begins there."""
        for file in self.path(CGROUPS).rglob("cgroup.procs"):
            if str(os.getpid()) in file.read_text().split():
                return str(file.parent)[len(str(self.root)) :]
        return CGROUPS

    # What CRIU does

    def dump(self, pid: int, images: str, script: str, *, leave: bool = False) -> None:
        """Write a process into `images`, held by the action script where there is one, and end it or `leave` it."""
        task = self.task(pid)
        if task is None:
            raise ToolError(f"Error: no process {pid}")
        place = self.path(images)
        _hook(script, "pre-dump")
        (place / "inventory.img").write_text("1\n")
        (place / f"core-{pid}.img").write_text(json.dumps({k: v for k, v in task.items() if k != "memory"}))
        (place / "pages-1.img").write_text(task["memory"])
        _hook(script, "post-dump")
        if not leave:
            self.end(pid)

    def restore(self, images: str, script: str, cgroup: str, **changes: Any) -> int:
        """Make the process out of `images` again, held by the action script until it may run; returns its pid."""
        place = self.path(images)
        if not (place / "inventory.img").exists():
            raise ToolError(f"Error: {images} holds no images")
        task = json.loads(next(place.glob("core-*.img")).read_text())
        if self.task(task["pid"]) is not None:
            raise ToolError(f"Error: pid {task['pid']} is taken")
        memory = (place / "pages-1.img").read_text()
        self.put({**task, **changes, "memory": memory, "cgroup": cgroup, "state": "held"})
        try:
            for action in ("pre-restore", "post-setup-namespaces", "post-restore"):
                _hook(script, action, task["pid"])
        except BaseException:  # a veto, or a signal: CRIU ends what it had made
            self.end(task["pid"])
            raise
        _hook(script, "pre-resume", task["pid"], heeded=False)
        held = self.task(task["pid"])
        if held is None:
            raise ToolError("Error: the copy was killed")
        self.put({**held, "state": "running"})
        _hook(script, "post-resume", task["pid"], heeded=False)
        return int(task["pid"])

    def say(self, text: str) -> None:
        """Write a line to the standard output of the tool that runs now."""
        self.said.append(f"{text}\n")

    # What a tool was called with, and what a test wants of it

    def record(self, words: list[str]) -> None:
        """One call, as a line of JSON: a newline in an argument is no trap."""
        with self.calls.open("a") as lines:
            lines.write(json.dumps(words) + "\n")

    def must_fail(self, words: list[str]) -> str:
        """The message with which this call is to fail, empty when it is not."""
        if not self.failures.exists():
            return ""
        return next((f["message"] for f in json.loads(self.failures.read_text()) if f["word"] in words), "")


def _hook(script: str, action: str, init: int = 0, *, heeded: bool = True) -> None:
    """Run the action script as CRIU does; it raises ToolError when it fails where that counts."""
    if not script:
        return
    import subprocess

    env = {**os.environ, "CRTOOLS_SCRIPT_ACTION": action}
    if init:
        env["CRTOOLS_INIT_PID"] = str(init)
    if subprocess.run([script], env=env).returncode != 0 and heeded:
        raise ToolError(f"Error: the action script failed at {action}")


def option(words: list[str], name: str) -> str:
    """The value of `--name VALUE` or `--name=VALUE`, empty when there is none."""
    for at, word in enumerate(words):
        if word == name and at + 1 < len(words):
            return words[at + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def _lines(path: str) -> Iterator[str]:
    if path:
        yield from Path(path).read_text().splitlines()


def script_of(words: list[str]) -> str:
    """CRIU's action script: from `--action-script`, or from the file that CRIU_CONFIG_FILE names."""
    found = option(words, "--action-script")
    for line in _lines(os.environ.get("CRIU_CONFIG_FILE", "")):
        key, _, value = line.strip().partition(" ")
        found = value.strip() if key == "action-script" else found
    return found
