"""The lab of the contract kit: two nodes that are directories, fake tools, workloads, and what is left of them.

Everything between the command line and the kernel is the real thing: planner, stage, engine, protocol, journals, and
the helper's own code on both ends. What is made up: the kernel (`kernel.py`) and the tools (`tools/`).
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import json
import secrets
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from reberth.config.config import Config
from reberth.connect.helper import HelperShell
from reberth.host import Host
from reberth.plugin.catalog import Catalog
from reberth.report.report import Report
from reberth.run.engine import Engine
from reberth.run.journal import Journal
from reberth.testing import kernel, saboteur
from reberth.testing.machine import Machine
from reberth.testing.session import LabSession, Wire
from reberth.testing.shell import LabShell
from reberth.testing.tool import STARTER, first_line
from reberth_hooks import Node, Plan, UsageError, plain

CORE = Path(__file__).parents[2]
NAMES = ("node1", "node2")


@dataclass(frozen=True)
class Started:
    """A workload of a test: its name, its process, the word in its memory, and the paths that are its own."""

    name: str
    pid: int
    memory: str
    paths: tuple[str, ...] = ()


class Lab:
    """Two nodes below one directory."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.wire = Wire()
        self.machines = {name: Machine(directory / name) for name in NAMES}
        self._pids = itertools.count(4711)
        for machine in self.machines.values():
            for name in ("bin", "runs", "left", "helper", *(f"root{p}" for p in ("/dev/shm", "/run", "/proc", "/srv"))):
                (machine.dir / name).mkdir(parents=True)
            machine.make_cgroup("/sys/fs/cgroup")

    def close(self) -> None:
        """Nothing runs here beyond a test."""

    # What a test puts there

    def tool(self, name: str, program: Path | str, *nodes: str) -> None:
        """Put a fake tool on all nodes, or on these: a file, or the text of one, with `main(machine, words)`."""
        if isinstance(program, str):
            text, program = program, self.dir / f"{name}.py"
            program.write_text(inspect.cleandoc(text) + "\n", encoding="utf-8")
        for node in nodes or NAMES:
            self.machines[node].path(f"/run/{name}").mkdir(exist_ok=True)
            self.machines[node].programs[name] = str(program)
            self._starter(self.machines[node], self.machines[node].dir / "bin" / name, program)

    def controller_tool(self, name: str, program: Path) -> Path:
        """Put a fake tool on the controller; returns the folder that belongs in front of PATH."""
        machine = Machine(self.dir / "controller")
        folder = machine.dir / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        self._starter(machine, folder / name, program)
        return folder

    @staticmethod
    def _starter(machine: Machine, place: Path, program: Path) -> None:
        words = {"first_line": first_line(sys.executable, "-IS"), "core": str(CORE), "node": str(machine.dir)}
        place.write_text(STARTER.format(**words, name=place.name, program=str(program)), encoding="utf-8")
        place.chmod(0o755)

    def process(self, node: str = "node1", name: str = "worker", cgroup: str = "/sys/fs/cgroup/user") -> Started:
        """Start a bare process, named by its pid."""
        started = Started("", next(self._pids), secrets.token_hex(64))
        self._put(node, started, name, cgroup, "")
        return Started(str(started.pid), started.pid, started.memory)

    def container(self, tool: str, name: str, node: str = "node1", bundle: str = "") -> Started:
        """Start a container of the fake OCI runtime `tool`, with a small bundle at /srv/NAME."""
        machine, bundle = self.machines[node], bundle or f"/srv/{name}"
        started = Started(name, next(self._pids), secrets.token_hex(64), (f"/run/{tool}/{name}.json", bundle))
        self._put(node, started, name, f"/sys/fs/cgroup/{name}", name)
        rootfs = machine.path(f"{bundle}/rootfs")
        (rootfs / "data").mkdir(parents=True)
        (rootfs / "data/rows").write_text(secrets.token_hex(2000))
        (rootfs / "link").symlink_to("data/rows")
        config = {"ociVersion": "1.0.2", "process": {"terminal": False}, "root": {"path": "rootfs"}, "mounts": []}
        machine.path(f"{bundle}/config.json").write_text(json.dumps(config))
        record = machine.path(f"/run/{tool}/{name}.json")
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"id": name, "bundle": bundle, "pid": started.pid}))
        return started

    def _put(self, node: str, started: Started, name: str, cgroup: str, container: str) -> None:
        machine = self.machines[node]
        machine.make_cgroup(cgroup)
        words = {"pid": started.pid, "memory": started.memory, "name": name, "container": container}
        machine.put({**words, "cgroup": cgroup, "state": "running"})

    def fail(self, node: str, word: str, message: str = "Error: it does not work") -> None:
        """Make each later call of a tool with this word among its arguments fail with this message."""
        failures = self.machines[node].failures
        known = json.loads(failures.read_text()) if failures.exists() else []
        failures.write_text(json.dumps([*known, {"word": word, "message": message}]))

    # What a test asks

    def calls(self, node: str = "") -> list[list[str]]:
        """The argument lists of every fake tool that ran, on one node or on all."""
        found: list[list[str]] = []
        for name in [node] if node else NAMES:
            file = self.machines[name].calls
            found += [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return found

    def copies(self, started: Started, *, running: bool = True) -> list[str]:
        """The nodes on which the workload runs (or merely is), told by what is in its memory."""
        return [
            name
            for name, machine in self.machines.items()
            for task in machine.tasks()
            if task["memory"] == started.memory and (machine.runs(task) or not running)
        ]

    def files(self, node: str) -> dict[str, str]:
        """Everything that is on a node but its processes: path -> kind, mode and content."""
        machine, found = self.machines[node], {}
        for path in sorted(machine.root.rglob("*")):
            name = f"/{path.relative_to(machine.root)}"
            if not name.startswith("/proc/"):
                found[name] = _looks(path)
        return found

    def used_cgroups(self, node: str) -> tuple[str, ...]:
        """The cgroups that have processes in them."""
        return tuple({t["cgroup"] for t in self.machines[node].tasks()})

    # Moves

    def host(self, plugins: dict[str, ModuleType], installed: tuple[str, ...], nodes: dict[str, Node]) -> LabHost:
        """A controller that knows these nodes, the given plugins and the named installed ones."""
        return LabHost(self, plugins, installed, nodes)

    @contextlib.contextmanager
    def kernel_of(self, plan: Plan) -> Iterator[None]:
        """The kernels of a plan's two nodes, while it runs."""
        with kernel.replaced((self.machines[plan.source.name], self.machines[plan.target.name])):
            yield


class LabHost(Host):
    """The host's facade, with the lab's nodes."""

    def __init__(
        self, lab: Lab, plugins: dict[str, ModuleType], installed: tuple[str, ...], nodes: dict[str, Node]
    ) -> None:
        super().__init__(Config(nodes, {}, ()))
        self.lab = lab
        environ = {"REBERTH_PLUGINS": ",".join(installed)}
        self.catalog = self.stage.catalog = Catalog({"wire": saboteur.wire(), **plugins}, environ)
        self.ends: list[LabShell] = []

    def observe(self) -> None:
        """No progress is shown."""

    def _connect_all(self, names: Iterable[str]) -> None:
        """Connections here cost nothing: each is made when it is asked for."""

    def shell_of(self, node_name: str) -> HelperShell:
        """A connection to a node of the lab."""
        end = LabShell(self.config.node(node_name), self.lab.machines[node_name])
        self.ends.append(end)
        return end

    def session(self, plan: Plan) -> LabSession:
        """Begin what `Host.move` begins: journal, both ends, the run."""
        journal = Journal(plan.id)
        journal.write("plan", format=1, plan=plain(plan))
        journal.claim()
        shells = (self.shell_of(plan.source.name), self.shell_of(plan.target.name))
        return LabSession(plan, journal, shells, self.stage.event, self.shell_of, self.lab.wire)

    def move(self, plan: Plan) -> Report:
        """Run a plan, or leave both ends alone where the controller dies."""
        with self.lab.kernel_of(plan):
            session = self.session(plan)
            try:
                return Engine(self.stage, session, Report.of_plan(plan)).run()
            except saboteur.ControllerDiedError:
                session.close_pipe()
                session.journal.release()  # a lock ends with its process
                ends = [end.daemon.end for end in self.ends if end.daemon.end is not None]
                journals = {end.run.dir: end for end in ends}
                for end in journals.values():
                    end.lost()  # what a helper does when it hears of nobody any more
                raise

    def recover_run(self, plan: Plan, how: str = "auto") -> Report:
        """`reberth recover ID`, by another process than the one that died."""
        with self.lab.kernel_of(plan):
            journal = Journal(plan.id)
            journal.write("controller", pid=0, start_ticks=0)
            found = self.recover(plan.id, how)[0]
        if not isinstance(found, Report):
            raise UsageError(f"nothing to recover: {found}")
        return found


def _looks(path: Path) -> str:
    entry = path.lstat()
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if not path.is_file():
        return f"{entry.st_mode:o}"
    return f"{entry.st_mode:o} {entry.st_size} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


def as_plain(value: Any) -> Any:
    """An answer of a hook as a journal would keep it; TypeError where JSON cannot."""
    return json.loads(json.dumps(plain(value)))
