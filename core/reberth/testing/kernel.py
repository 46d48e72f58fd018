"""A kernel for a node that is a directory: what the helper asks of cgroups and processes, answered from files.

The helper's own code runs above it unchanged, with its votes, verdicts, journals, undo and held tools; `replaced` puts
these in place of `reberth.node.freeze.cgroup` and `reberth.node.system.procs` where that code looks for them.
"""

from __future__ import annotations

import contextlib
import fnmatch
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from reberth.node.freeze import cgroup as real_cgroup
from reberth.node.freeze import still
from reberth.node.runs import enclose, look, run, source, target
from reberth.node.system.procs import Task
from reberth.testing.machine import CGROUPS, Machine

START_TICKS = 100


class Cgroups:
    """`reberth.node.freeze.cgroup` for one node; paths are where the files really are."""

    inside = staticmethod(real_cgroup.inside)
    is_asked_to_freeze = staticmethod(real_cgroup.is_asked_to_freeze)
    ask_freeze = staticmethod(real_cgroup.ask_freeze)
    freeze = staticmethod(real_cgroup.ask_freeze)
    thaw = staticmethod(real_cgroup.thaw)

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def _name(self, path: str) -> str:
        return path[len(str(self.machine.root)) :] if path.startswith(str(self.machine.root)) else path

    def mount_point(self) -> str:
        """Return where the hierarchy is."""
        return str(self.machine.path(CGROUPS))

    def of_pid(self, pid: int) -> str:
        """A process's cgroup; tools and helper, which are real, are in the root."""
        task = self.machine.task(pid)
        return str(self.machine.path(task["cgroup"] if task else CGROUPS))

    def pids(self, path: str) -> list[int]:
        """Every process in it and below it."""
        name = self._name(path)
        return [t["pid"] for t in self.machine.tasks() if self.inside(t["cgroup"], name)]

    def events(self, path: str) -> dict[str, int]:
        """`populated` and `frozen`."""
        there = Path(path).is_dir()
        return {"populated": int(bool(self.pids(path))), "frozen": int(self.is_asked_to_freeze(path))} if there else {}

    def is_frozen(self, path: str) -> bool:
        """Tell whether it has stopped."""
        return self.is_asked_to_freeze(path)

    def wait_frozen(self, path: str, timeout_s: float) -> bool:
        """It stops at once."""
        return self.is_asked_to_freeze(path)

    def kill(self, path: str, timeout_s: float = 10.0) -> bool:
        """End every process in it."""
        for pid in self.pids(path):
            self.machine.end(pid)
        return True

    def create(self, path: str) -> None:
        """Make it, or take one left over."""
        self.machine.make_cgroup(path)

    def remove(self, path: str) -> bool:
        """Remove it, if no process is in it."""
        if not self.pids(path):
            shutil.rmtree(path, ignore_errors=True)
        return not Path(path).exists()

    def sweep(self, directory: str, open_runs: Callable[[], list[str]], keep: str = "") -> None:
        """Remove the empty ones of earlier moves."""
        runs = {f"reberth-{name}" for name in open_runs()}
        for path in Path(directory).glob("reberth-*"):
            if path.name not in runs and str(path) != keep:
                self.remove(str(path))

    def enter(self, path: str, pid: int) -> None:
        """Move one process."""
        task = self.machine.task(pid)
        if task is not None:
            self.machine.put({**task, "cgroup": self._name(path)})


class Procs:
    """`reberth.node.system.procs` for one node: every process is a tree of its own."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def task(self, pid: int) -> Task | None:
        """One process."""
        found = self.machine.task(pid)
        return as_task(found) if found else None

    def alive(self, pid: int, start_ticks: int = 0) -> bool:
        """Tell whether it is there."""
        return self.machine.task(pid) is not None and start_ticks in (0, START_TICKS)

    def tree(self, root: int) -> list[Task]:
        """The process alone."""
        found = self.task(root)
        return [found] if found else []

    def below(self, root: int, pids: list[int]) -> list[int]:
        """The process alone, while it is there."""
        return [root] if self.alive(root) else []

    def ancestors(self, pid: int, stop: int) -> list[int]:
        """None that matter: tools and scripts are outside."""
        return []

    def descends(self, pid: int, ancestor: int) -> bool:
        """A tool of this node lives until it has ended by itself."""
        return True


def as_task(task: dict[str, Any]) -> Task:
    """A process as the helper knows one."""
    pid = int(task["pid"])
    return Task(pid, 1, pid, pid, 0, 1, START_TICKS, "S", str(task["name"]))


class Anywhere(Cgroups):
    """For undo, which knows paths alone: the node is the one that the path lies in."""

    def __init__(self, machines: list[Machine]) -> None:
        self.machines = machines

    def _name(self, path: str) -> str:
        self.machine = next(m for m in self.machines if path.startswith(f"{m.root}/"))
        return super()._name(path)

    def enter(self, path: str, pid: int) -> None:
        """Find the node first."""
        self._name(path)
        super().enter(path, pid)


@contextlib.contextmanager
def replaced(ends: tuple[Machine, Machine]) -> Iterator[None]:
    """Let the helper's code see these two nodes, source and target, instead of this machine."""
    with contextlib.ExitStack() as stack:
        sources = (source, enclose, still)
        for module, machine in (*((one, ends[0]) for one in sources), (target, ends[1]), (look, ends[1])):
            stack.enter_context(mock.patch.object(module, "cgroup", Cgroups(machine)))
            stack.enter_context(mock.patch.object(module, "procs", Procs(machine)))
        stack.enter_context(mock.patch.object(enclose, "open_runs", list))
        # Pids of these nodes may be those of processes of this machine, which are left alone.
        stack.enter_context(mock.patch.object(source, "content", lambda pids, places: []))
        stack.enter_context(mock.patch.object(look.Look, "hold", lambda self, init, pids: None))
        stack.enter_context(mock.patch.object(run, "cgroup", Anywhere(list(ends))))
        yield


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a path is one of these, or below one of them."""
    return any(fnmatch.fnmatchcase(path, p) or fnmatch.fnmatchcase(path, f"{p}/*") for p in patterns)
