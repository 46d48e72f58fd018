"""The cases of the fault matrix, generated from the controller's journal of a good run: a new step is a new row.

What each case may end with is what docs/protocol.md says; `ends` is that table as a function.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SIDES = ("source", "target")
LINKS = ("down", "deaf", "mute")  # unplugged; the node hears nothing; nobody hears the node
# What can be struck when the controller stands at the beginning of a phase or a step; `source` and `target` are sides.
ANYWHERE = [f"{what}-{side}" for what in ("helper", "ssh", "bulk") for side in SIDES]
ANYWHERE += [f"link-{kind}-{side}" for kind in LINKS for side in SIDES] + ["reboot-target"]
FROZEN = ("final-dump", "final-transfer", "final-sync", "restore", "commit", "ask-ready", "permit", "commit-source")
HELD = ("commit", "ask-ready", "permit")
# Stages in their order: nothing decided; the source has voted READY; PERMIT is written, the copy has landed; given up.
STAGES = ("before", "ready", "landed", "given-up")


@dataclass(frozen=True)
class Case:
    """One fault: `at` is the record of the controller's journal where it stands then, `point` its phase or step.

    `moment`: `before` or `after` the record (the controller's own death), `at` it, or `in` what follows it.
    """

    backend: str
    fault: str
    at: int
    point: str
    moment: str = "at"
    stage: str = "before"

    @property
    def id(self) -> str:
        """The name in the list of tests."""
        return f"{self.backend}-{self.fault}-{self.moment}-{self.at}-{self.point}"


@dataclass(frozen=True)
class Point:
    """A record of the journal: where it is, what begins with it, and what is decided by then."""

    at: int
    name: str
    stage: str
    begins: bool


def points(journal: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Every record as a point."""
    found: list[Point] = []
    name, stage = "plan", "before"
    for number, record in enumerate(journal):
        begins = record["event"] in ("phase", "step")
        if begins:
            name = str(record.get("name") or record["step"])
            name = "commit-source" if record["event"] == "step" and name == "commit" else name
            stage = {"permit": "ready", "commit-source": "landed", "finish": "given-up"}.get(name, stage)
        found.append(Point(number, name, stage, begins))
    return found


def generate(backend: str, journal: Sequence[Mapping[str, Any]]) -> list[Case]:
    """All cases of one backend."""
    every = points(journal)
    opened = max((n for n, record in enumerate(journal) if record["event"] == "opening"), default=0)
    cases = [Case(backend, "controller", p.at, p.name, when, p.stage) for p in every for when in ("before", "after")]
    for point in every:
        if point.begins and point.at > opened:
            faults = [*ANYWHERE, *(_tools(backend, point.name))]
            if point.name == "prepare":  # the data connections are not open yet
                faults = [fault for fault in faults if not fault.startswith("bulk")]
            cases += [Case(backend, fault, point.at, point.name, "at", point.stage) for fault in faults]
            cases += [Case(backend, fault, point.at, point.name, "in", point.stage) for fault in _while(backend, point)]
    return cases + _data(backend, every)


def _tools(backend: str, name: str) -> list[str]:
    """Tools that stand and wait while the controller is at this point."""
    tools = ["criu", "runc"] if backend == "runc" else ["criu"]
    source = [f"{tool}-source" for tool in tools if name in FROZEN and name != "final-dump"]
    return source + [f"{tool}-target" for tool in tools if name in HELD]


def _while(backend: str, point: Point) -> list[str]:
    """Tools that are struck at work; the helper too."""
    tools = ["criu", "runc", "helper"] if backend == "runc" else ["criu", "helper"]
    side = {"final-dump": "source", "restore": "target", "permit": "target"}.get(point.name)
    return [f"{tool}-{side}" for tool in tools] if side else []


def _data(backend: str, every: Sequence[Point]) -> list[Case]:
    """What happens to the data, to the place for it, and to the restore."""
    by_name = {point.name: point for point in every if point.begins}
    cases = []
    for fault, name in (
        ("flip", "prepare"),
        ("cut-off", "prepare"),
        ("disk-full", "final-transfer"),
        ("restore-fails", "restore"),
        *([("pid-taken", "restore")] if backend == "criu" else []),
    ):
        point = by_name[name]
        cases.append(Case(backend, fault, point.at, name, "at", point.stage))
    return cases


def sample(cases: Sequence[Case], count: int, seed: int) -> list[Case]:
    """Some of them: of each kind of fault at most one before the kinds begin again, links last as they take longest."""
    chance = random.Random(seed)
    mixed = sorted(cases, key=lambda case: case.id)
    chance.shuffle(mixed)
    seen: dict[str, int] = {}
    ranks = []
    for case in mixed:
        kind = case.fault.partition("-")[0]
        seen[kind] = seen.get(kind, 0) + 1
        ranks.append((seen[kind], kind in ("link", "reboot")))
    order = sorted(range(len(mixed)), key=lambda n: ranks[n])
    return [mixed[n] for n in order[:count]]


def ends(case: Case) -> frozenset[int]:
    """The exit codes that the protocol allows the move; where one is 40 or 41, `recover` brings it to an end with 0."""
    kind = case.fault.partition("-")[0]
    if kind == "controller":
        return frozenset({-9})
    if kind == "flipped":  # a twin: nobody can notice but the workload itself
        return frozenset({0})
    if kind in ("flip", "cut", "disk", "restore", "pid"):
        return frozenset({20})
    far = case.fault.endswith("source")
    stage = case.stage
    if kind in ("link", "reboot") and case.point == "ask-ready":  # READY is on disk before the target is missed
        stage = "ready"
    # A bulk connection that is not used any more does nobody harm; neither does a tool whose work is done.
    codes = {
        "before": {20, 40} if far else {20},
        "ready": {0, 20, 40, 41},
        "landed": {0, 41},
        "given-up": {0, 41},
    }[stage]
    harmless = kind in ("bulk", "runc", "ssh", "link", "helper") or (kind == "criu" and far)
    late = case.point == "final-dump" and case.moment == "in"  # a random moment may come when the dump is done
    if (
        case.stage == "before"
        and harmless
        and (late or case.point in (*HELD, "restore", "final-transfer", "final-sync"))
    ):
        codes = codes | {0}
    if kind == "reboot":
        codes = codes | {40}
    return frozenset(codes)
