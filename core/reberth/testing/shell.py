"""A node of the lab as the controller sees it: the helper's operations in this process, over a directory.

Operations that touch only files are the helper's own, with their paths moved below the node's root. Those that begin a
run or ask the kernel are answered here in its words (docs/helper.md). Arguments and answers pass through JSON.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from reberth.connect.helper import Asked, HelperShell
from reberth.node.daemon.loop import Daemon
from reberth.node.errors import OpError
from reberth.node.operations import hello, table
from reberth.node.runs import run
from reberth.node.runs.source import Source
from reberth.node.runs.target import Target
from reberth.node.system.durable import lay_ballots
from reberth.testing.kernel import START_TICKS, as_task
from reberth.testing.machine import CGROUPS, Machine
from reberth.testing.tool import perform
from reberth_hooks import HelperError, Node, Route

PATHS = ("path", "into", "directory", "work", "to")
NOTHING_OF = (
    *("files", "deleted", "devices", "terminals", "masters", "slaves", "traced_by", "outside_mounts", "parents"),
    *("pipes", "pipes_outside", "unix_outside", "nested", "watches", "pidfds", "shared_vm", "schedulers", "linked"),
    *("abstract", "dead_leaders", "sysv_items", "files_outside", "confined", "shared_locks", "not_looked_at"),
    *("bound", "unix_unaccepted", "mqueues", "links", "written_outside", "processors", "personality", "linked_found"),
)
_one_tool = threading.Lock()  # a node's directory knows one tool that speaks now
RUNS_A_TOOL = ("run", "dump", "restore")


class LabRun(run.Run):
    """A run whose lock and end are the directory's own."""

    def end(self, outcome: str) -> list[str]:
        """Write the end; the directory stays where it is."""
        left = self.undo_again()
        if not self.ended:
            self.journal.write("end", outcome=outcome)
        return left


class LabShell(HelperShell):
    """One connection to a node of the lab."""

    def __init__(self, node: Node, machine: Machine) -> None:
        self._node, self._route = node, Route(hint="it is a directory: is it still there?")
        self._offsets, self._pinging = [], threading.Lock()
        self.on_wait: Callable[[], None] = lambda: None
        self.machine = machine
        self.daemon = Daemon(str(machine.dir / "helper"))
        self.facts: dict[str, Any] = self.call("hello")

    def begin(self, op: str, /, *, on_progress: Callable[..., None] | None = None, **args: Any) -> Asked:
        """Start an operation in a thread of its own, as the helper does."""
        future: Future[Any] = Future()
        words = json.loads(json.dumps(args))  # TypeError where a plugin passes what no connection carries
        teller = on_progress or (lambda **_: None)
        threading.Thread(target=self._answer, args=(future, op, words, teller), daemon=True).start()
        return Asked(future, op, self._node.name, self.on_wait)

    def kill(self) -> None:
        """Nothing to end."""

    def close(self) -> None:
        """Nothing to end."""

    def _answer(self, future: Future[Any], op: str, args: dict[str, Any], progress: Callable[..., None]) -> None:
        try:
            future.set_result(self._seen(json.loads(json.dumps(self._do(op, args, progress)))))
        except OpError as error:
            future.set_exception(self._error(op, error.kind, error.message, error.hint, error.tail))
        except Exception as error:  # as the helper: a bug there reaches the controller
            future.set_exception(self._error(op, "bug", f"{type(error).__name__}: {error}", "", ""))

    def _error(self, op: str, kind: str, message: str, hint: str, tail: str) -> HelperError:
        words = f"node {self._node.name}: {self._seen(message)}"
        error = HelperError(words, kind=kind, hint=hint, tail=str(self._seen(tail)))
        error.op = op  # type: ignore[attr-defined]
        return error

    def _do(self, op: str, args: dict[str, Any], progress: Callable[..., None]) -> Any:
        moved = self._moved(op, args)
        own = getattr(self, f"_op_{op}", None)
        return own(**moved) if own else table.call(self.daemon, op, moved, progress)

    # Paths and programs of the node are below its directory

    def _moved(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        found = dict(args)
        for key in PATHS:
            if found.get(key) and not (key == "path" and op == "describe"):
                found[key] = str(self.machine.path(found[key]))
        if "paths" in found:
            found["paths"] = [str(self.machine.path(p)) for p in found["paths"]]
        if isinstance(found.get("files"), list):
            found["files"] = [{**f, "path": str(self.machine.path(f["path"]))} for f in found["files"]]
        if op in RUNS_A_TOOL or found.get("do") == "run":
            found["argv"] = self.program(found["argv"])
        return found

    def program(self, argv: list[str]) -> list[str]:
        """The argument list with the node's own fake tool."""
        if not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
            raise OpError("bad-argument", "an argument list holds words without NUL")
        found = self.machine.dir / "bin" / Path(argv[0]).name
        if not found.exists():
            raise OpError("missing", f"{argv[0]} is not installed", hint=f"install {argv[0]} on this node")
        return [str(found), *argv[1:]]

    def _seen(self, value: Any) -> Any:
        """An answer in the node's own paths."""
        if isinstance(value, str):
            return value.replace(str(self.machine.root), "")
        if isinstance(value, list):
            return [self._seen(v) for v in value]
        if isinstance(value, dict):
            return {self._seen(k): self._seen(v) for k, v in value.items()}
        return value

    # Operations that ask the kernel, or that begin and end a run

    def _op_hello(self) -> dict[str, Any]:
        facts: dict[str, Any] = hello.hello(self.daemon, None)
        name = self._node.name
        return {**facts, "hostname": name, "uid": 0, "boot_id": f"boot-{name}", "cgroup2": CGROUPS, "cap_eff": -1}

    def _op_run(self, argv: list[str], timeout_s: float = 30.0, stdin: str = "", cwd: str = "/") -> dict[str, Any]:
        name = Path(argv[0]).name
        with _one_tool:
            self.machine.stdin = stdin
            code, out, err = perform(self.machine, name, argv[1:], self.machine.programs[name])
        return {"code": code, "out": out, "err": err}

    def _op_runs(self) -> list[dict[str, Any]]:
        found = (LabRun(place.name, str(place)) for place in (self.machine.dir / "runs").iterdir())
        return [{"id": one.id, "role": one.role, "workload": one.opened("workload")} for one in found if not one.ended]

    def _op_open(
        self, run_id: str, role: str, workload: str, start_ticks: int = 0, version: str = ""
    ) -> dict[str, Any]:
        for place in (self.machine.dir / "runs").iterdir():
            other = LabRun(place.name, str(place))
            if other.opened("workload") == workload and not other.ended:
                raise OpError("busy", place.name)
        place = self.machine.dir / "runs" / run_id
        place.mkdir(mode=0o700)
        lay_ballots(str(place), "vote", run.VOTES)
        lay_ballots(str(place), "verdict", run.VERDICTS)
        opened = LabRun(run_id, str(place))
        opened.journal.write("open", format=1, id=run_id, role=role, workload=workload, boot_id=run.boot_id())
        self._serve(opened)
        return {"dir": str(place), "socket": ""}

    def _serve(self, opened: LabRun) -> None:
        self.daemon.end = Source(opened) if opened.role == "source" else Target(opened)

    def _op_adopt(self, run_id: str, look: bool = False) -> dict[str, bool]:
        """Go on from the journal: a helper that lives is not modelled."""
        place = self.machine.dir / "runs" / run_id
        if not place.is_dir():
            return {"live": False, "known": False}
        self._serve(LabRun(run_id, str(place)))
        return {"live": False, "known": True}

    def _op_workdir(
        self, need_bytes: int, name: str = "images", keep: bool = False, disk: bool = True
    ) -> dict[str, Any]:
        if not disk:
            raise OpError("no-space", "the tasks of this node are played: they have no memory to read")
        end = self.daemon.end
        assert end is not None
        path = self.machine.path(f"/dev/shm/reberth-{end.run.id}-{name}")
        if not keep:
            end.run.push_undo("always", "rmtree", path=str(path))
        path.mkdir(mode=0o700)
        return {"path": str(path), "free_bytes": need_bytes * 2}

    def _op_describe(self, pid: int) -> dict[str, Any]:
        task = self.machine.task(pid)
        if task is None:
            raise OpError("ended", f"there is no process {pid}")
        spaces = dict.fromkeys(("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"), "of the node")
        return {
            **{key: [] for key in NOTHING_OF},
            "pid": pid,
            "tasks": [as_task(task)._asdict()],
            "uids": [0],
            "anon": {},
            "protocols": {},
            "ghosts": {},
            "hugetlb": False,
            "sysv_shm": False,
            "frozen": False,
            "exe": f"/usr/bin/{task['name']}",
            "cwd": "/",
            "root": "/",
            "memory_bytes": 1 << 20,
            "namespaces": spaces,
            "helper_namespaces": spaces,
            "cgroup": task["cgroup"],
            "unit": {},
            "loopback_up": False,
            "written": [],
            "tcp": {"inside": 0, "outside": [], "listening": [], "unaccepted": [], "stay": []},
        }

    def _op_taken(self) -> dict[str, Any]:
        return {"tcp": [], "abstract": []}

    def _op_cpu_dump(self) -> str:
        return ""

    def _op_processes(self) -> list[dict[str, Any]]:
        bare = [t for t in self.machine.tasks() if not t["container"]]
        return [
            {"pid": t["pid"], "comm": t["name"], "state": "S", "start_ticks": START_TICKS, "memory_bytes": 1 << 20}
            for t in bare
        ]

    def _mark(self, path: str) -> Path:
        return self.machine.dir / "left" / path.replace("/", "%")[-200:]

    def _op_mark_left(self, path: str) -> None:
        self._mark(path).write_text(str(Path(path).stat().st_ino))

    def _op_is_left(self, path: str) -> dict[str, Any]:
        if not Path(path).exists():
            return {"exists": False, "left": False}
        mark = self._mark(path)
        left = mark.exists() and mark.read_text() == str(Path(path).stat().st_ino)
        return {"exists": True, "left": left, "entries": len(list(Path(path).iterdir()))}

    def _op_unmark_left(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._mark(path).unlink()

    def _op_pipe_ready(self) -> None:
        """The session of the lab has joined the two ends already."""
