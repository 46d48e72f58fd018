"""The facade behind every command: configuration, plugins, connections, and the runs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from reberth.commands.retention import limit_logs
from reberth.config.config import Config
from reberth.config.names import parse_source, parse_target
from reberth.config.request import Request
from reberth.connect.api import ApiShell
from reberth.connect.helper import Answer, HelperShell
from reberth.connect.plain import PlainShell, require_helper
from reberth.plan.planner import make_plan
from reberth.plugin.catalog import Catalog
from reberth.plugin.stage import Stage
from reberth.report.report import Report
from reberth.run import begin, outcome
from reberth.run import journal as journals
from reberth.run.control import Wishes
from reberth.run.engine import Engine
from reberth.run.journal import Journal
from reberth.run.opened import untold
from reberth.run.session import Session
from reberth_hooks import Found, Node, Options, Plan, ReberthError, Route, UsageError


class Host:
    """One invocation; a context manager that closes every connection it opened."""

    def __init__(self, config: Config, *, yes: bool = False, quiet: bool = False, json: bool = False) -> None:
        self.config, self.yes, self.quiet, self.json = config, yes, quiet, json
        self.catalog = Catalog()
        self.stage = Stage(self.catalog)
        self.warnings: list[str] = []
        self._shells: dict[str, HelperShell] = {}
        if quiet:
            os.environ["REBERTH_PROGRESS"] = "none"

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections."""
        while self._shells:
            self._shells.popitem()[1].close()

    def shell(self, node_name: str) -> HelperShell:
        """Return a node, connected once; UsageError for an unknown one, UnreachableError, UntrustedError."""
        if node_name not in self._shells:
            self._shells[node_name] = self.shell_of(node_name)
        return self._shells[node_name]

    def shell_of(self, node_name: str) -> HelperShell:
        """Return a connection of its own, for a run to keep."""
        node = self.config.node(node_name)
        return open_shell(node, self.stage.connect(node), self.stage.answer)

    def way(self, plan: Plan) -> Callable[[str], HelperShell]:
        """Return how both ends of a run are reached.

        By the connectors that it was begun with, be they in no inventory now.
        """

        def reach(name: str) -> HelperShell:
            node = plan.source if name == plan.source.name else plan.target
            known = self.config.nodes.get(name)
            if known is not None and known.connector == node.connector:
                return self.shell_of(name)
            return open_shell(node, self.stage.connect(node), self.stage.answer)

        return reach

    def _connect_all(self, names: Iterable[str]) -> None:
        """Connect several nodes at the same time; one that fails is left for `shell`, which then says why."""
        from concurrent.futures import ThreadPoolExecutor

        wanted = [n for n in dict.fromkeys(names) if n in self.config.nodes and n not in self._shells]
        with ThreadPoolExecutor(max(len(wanted), 1)) as pool:
            nodes = [self.config.node(name) for name in wanted]
            routes = [self.stage.connect(node) for node in nodes]  # plugins are loaded in this thread
            pairs = zip(nodes, routes, strict=True)
            under_way = [pool.submit(open_shell, *pair, self.stage.answer) for pair in pairs]
            for node, future in zip(nodes, under_way, strict=True):
                with contextlib.suppress(ReberthError):
                    self._shells[node.name] = future.result()

    def list_workloads(self, node: str | None) -> list[tuple[str, Found]]:
        """Workloads of all backends enabled there; a node out of reach or a backend that fails is a warning."""
        found: list[tuple[str, Found]] = []
        self._connect_all([node] if node else self.config.nodes)
        for name in [node] if node else list(self.config.nodes):
            try:
                shell = self.shell(name)
            except ReberthError as error:
                if node:
                    raise
                self.warnings.append(error.message)
                continue
            held = _held(shell)
            for backend in shell.node.backends:
                try:
                    found += [(name, _marked(f, held)) for f in self.stage.list(backend, shell.node, shell)]
                except ReberthError as error:
                    self.warnings.append(f"{name}: {error.message}")
        return found

    def plan(self, request: Request) -> Plan:
        """Decide what a move would do; touches nothing."""
        with contextlib.suppress(ReberthError):
            ends = [parse_source(request.source, self.config).node, parse_target(request.target)[0]]
            self._connect_all(ends)
        require_helper(*self._shells.values())
        return make_plan(request, self.config, self.stage, self.shell)

    def move(self, plan: Plan) -> Report:
        """Run a plan; a failure is in the report."""
        self.observe()
        plan, journal = begin.begin(plan)
        shells = (self.shell(plan.source.name), self.shell(plan.target.name))
        for name in (plan.source.name, plan.target.name):
            self._shells.pop(name, None)  # the run owns them now: its helpers outlive this process if they must
        session = Session(plan, journal, shells, self.stage.event, self.shell_of, self.stage.answer)
        report = Engine(self.stage, session, Report.of_plan(plan)).run()
        with contextlib.suppress(ReberthError, OSError):  # housekeeping: the run has its end
            limit_logs()
        return report

    def observe(self) -> None:
        """Load the observers that the user wants."""
        if not self.quiet and "progress" in self.catalog.names():
            self.catalog.get("progress")

    def checkpoint(self, request: Request, directory: Path) -> Report:
        """Do the first half of a move, into a directory of this machine."""
        from reberth.commands.checkpoint import checkpoint

        return checkpoint(self, request, directory)

    def restore(self, directory: Path, target: str, options: Options) -> Report:
        """Do the second half, out of such a directory."""
        from reberth.commands.checkpoint import restore

        return restore(self, directory, target, options)

    # Runs of others

    def recover(
        self, run_id: str | None, how: str = "auto", dry_run: bool = False, gone: Collection[str] = ()
    ) -> list[Any]:
        """Bring open runs to an end from the journals alone: the one named, or all that have none."""
        from reberth.commands.recover import recover

        return recover(self, run_id, how, dry_run, gone)

    def open_runs(self) -> list[str]:
        """Runs of this controller without an end, or held, or not tidied up."""
        return [run_id for run_id in journals.runs() if outcome.is_unfinished(Journal(run_id))]

    def status(self, run_id: str | None) -> list[dict[str, Any]]:
        """Return what open runs (or this one) are doing."""
        found = []
        for name in [run_id] if run_id else self.open_runs():
            journals.run_dir(name)
            journal = Journal(name)
            plan = (journal.last("plan") or {}).get("plan", {})
            phase, end = journal.last("phase"), journal.last("end")
            found.append(
                {
                    "id": name,
                    "controller": journal.controller(),
                    "workload": plan.get("workload"),
                    "target": f"{plan.get('target', {}).get('name')}:{plan.get('target_name')}",
                    "phase": (phase or {}).get("name", "prepare"),
                    "outcome": (end or {}).get("outcome", ""),
                    "owner": (end or {}).get("owner", ""),
                    "untold": [plan[side]["name"] for side in untold(journal)],
                }
            )
        return found

    def change(self, run_id: str, values: dict[str, Any]) -> dict[str, Any]:
        """Leave a wish for the process that drives a run; UsageError when none does, or when none would hear it."""
        from reberth.commands.recover import plan_from

        journal = Journal(journals.run_dir(run_id).name)
        if not journal.controller() or journal.last("end") is not None:
            raise UsageError(f"no process drives run {run_id}", hint="to see the open ones: reberth status")
        plan = plan_from((journal.last("plan") or {})["plan"])
        if plan.managed:
            text = f"{plan.workload.backend} carries run {run_id} by itself and hears nothing meanwhile"
            raise UsageError(text, hint=f"reberth abort {run_id} ends it")
        return {"id": run_id, **Wishes(journal.dir).add(values)}

    def abort(self, run_id: str) -> dict[str, Any]:
        """Ask the process that drives a run to roll back; UsageError when none does."""
        journals.run_dir(run_id)
        pid = Journal(run_id).controller()
        if not pid or (Journal(run_id).last("end") is not None):
            raise UsageError(f"no process drives run {run_id}", hint=f"reberth recover {run_id}")
        os.kill(pid, signal.SIGTERM)
        return {"id": run_id, "asked": pid}


def _held(shell: HelperShell) -> dict[str, str]:
    """Return the workloads that a run holds frozen on this node, with the run's id; none where that cannot be asked."""
    with contextlib.suppress(ReberthError):
        return {run["workload"]: run["id"] for run in shell.call("runs") if run.get("frozen") and not run.get("gone")}
    return {}


def _marked(found: Found, held: dict[str, str]) -> Found:
    run_id = held.get(f"{found.backend}/{found.name}")
    return replace(found, status="held", detail=f"by run {run_id}") if run_id else found


def open_shell(node: Node, route: Route, answer: Answer) -> HelperShell:
    """Return a connection to a node: through its helper, or by plain commands or an API where the connector says so."""
    if route.api:
        return ApiShell(node, route, answer)
    return HelperShell(node, route) if route.helper else PlainShell(node, route)
