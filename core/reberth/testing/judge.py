"""One move of the contract, and what may be said of it afterwards."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from reberth.config.request import Request
from reberth.report.report import Report
from reberth.run.journal import Journal
from reberth.testing.kernel import matches
from reberth.testing.lab import Lab, LabHost, Started, as_plain
from reberth.testing.saboteur import ControllerDiedError, Saboteur, Witness
from reberth_hooks import Node, Options, Plan

NAMES = ("node1", "node2")


@dataclass
class Mover:
    """Moves one workload about between the nodes of a lab, and remembers what was where before."""

    lab: Lab
    plugin: str
    module: ModuleType
    started: Started
    where: str = "node1"
    transport: str = "wire"
    options: dict[str, Any] = field(default_factory=dict)
    before: dict[str, dict[str, str]] = field(default_factory=dict)
    seen: list[tuple[str, list[str]]] = field(default_factory=list)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.witness = Witness(lambda moment: self.seen.append((moment, self.lab.copies(self.started))))
        self.remember()

    def remember(self) -> None:
        """From now on, what is on the nodes now is what was there before."""
        self.before = {name: self.lab.files(name) for name in NAMES}
        self.seen.clear()

    @property
    def there(self) -> str:
        """The other node."""
        return "node2" if self.where == "node1" else "node1"

    def host(self, *wrappers: Saboteur) -> LabHost:
        """A controller with the plugin, the witness and these saboteurs."""
        plugins = {self.plugin: self.module, "witness": self.witness.plugin}
        plugins |= {f"saboteur{number}": s.plugin for number, s in enumerate(wrappers)}
        extra = tuple(name for name in plugins if name != self.plugin)
        nodes = {
            name: Node(
                name,
                connector="wire",
                backends=(self.plugin,),
                transports=("wire",),
                wrappers=extra,
                options={self.plugin: self.options} if self.options else {},
            )
            for name in NAMES
        }
        host = self.lab.host(plugins, (), nodes)
        host.catalog.get("witness")
        return host

    def plan(self, host: LabHost, name: str = "", options: Options | None = None) -> Plan:
        """Plan a move from where it is to the other node would do."""
        source = f"{self.where}:{self.plugin}/{name or self.started.name}"
        return host.plan(Request(source, f"{self.there}:", options or Options()))

    def move(self, *wrappers: Saboteur) -> Report:
        """Move it; the plan must be allowed."""
        host = self.host(*wrappers)
        plan = self.plan(host)
        assert plan.refused == (), [f"{c.id}: {c.reason}" for c in plan.refused]
        report = host.move(plan)
        self.error = None
        if report.outcome == "moved":
            self.where = self.there
        return report

    def die(self, saboteur: Saboteur) -> tuple[LabHost, Plan]:
        """Begin a move whose controller dies there; the nodes have acted by themselves when this answers."""
        host = self.host(saboteur)
        plan = self.plan(host)
        with contextlib.suppress(ControllerDiedError):
            host.move(plan)
        return self.host(saboteur), plan

    # What may be said afterwards

    def check_one_copy(self, where: str) -> None:
        """Exactly one copy, on that node, and never two at any moment that the witness saw."""
        assert self.lab.copies(self.started) == [where], "it must run there, and nowhere else"
        assert self.lab.copies(self.started, running=False) == [where], "a copy that does not run is a copy as well"
        twice = [(moment, nodes) for moment, nodes in self.seen if len(nodes) > 1]
        assert twice == [], "two copies ran at the same time"

    def check_as_before(self, *, beside: tuple[str, ...] = ()) -> None:
        """Both nodes are as they were: nothing new, nothing changed, nothing gone."""
        for name in NAMES:
            assert changes(self.before[name], self.lab.files(name), beside) == {}, f"on {name}"

    def check_arrived(self, beside: tuple[str, ...]) -> None:
        """Nothing new but the workload itself on the target, and nothing new at all on the source."""
        for name in NAMES:
            own = (*self.started.paths, *self.lab.used_cgroups(name), *beside) if name == self.where else beside
            new = {p: how for p, how in changes(self.before[name], self.lab.files(name), own).items() if how == "new"}
            assert new == {}, f"left on {name}"

    def texts_kept(self, plan_id: str) -> str:
        """Everything that is written down or shown of a run: journals, report, events, argument lists."""
        journals: list[Any] = [Journal(plan_id).records]
        for machine in self.lab.machines.values():
            journals += [[p.read_text()] for p in machine.dir.glob("runs/*/journal.jsonl")]
        shown = [as_plain(event) for event in self.witness.events]
        return json.dumps([journals, shown, self.lab.calls()])


def changes(before: dict[str, str], now: dict[str, str], beside: tuple[str, ...]) -> dict[str, str]:
    """Return what differs between two looks at a node (path -> new, gone or changed), but below `beside`."""
    found = {path: "new" for path in now.keys() - before.keys()}
    found |= {path: "gone" for path in before.keys() - now.keys()}
    found |= {path: "changed" for path in before.keys() & now.keys() if before[path] != now[path]}
    return {path: how for path, how in sorted(found.items()) if not matches(path, beside)}
