"""One run with a backend, a transport and two ends in memory: what the tests of engine and `recover` share."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fakes import FakeShell, FakeSource, FakeTarget

from reberth.plugin.catalog import Catalog
from reberth.plugin.stage import Stage
from reberth.report.report import Report
from reberth.run import session as session_module
from reberth.run.engine import Engine
from reberth.run.journal import Journal
from reberth.run.session import Session
from reberth_hooks import Channel, Exit, Mode, Node, Options, Plan, UnreachableError, Workload, plain

BACKEND = """
fail = {}

def step(name):
    calls.append(name)
    if fail.get(name):
        what = fail[name].pop(0)
        if isinstance(what, BaseException):
            raise what
        what()

@hookimpl
def reberth_describe():
    return Declaration("a backend", frozenset({Role.BACKEND}), modes=frozenset({Mode.STOP_AND_COPY}))

@hookimpl
def reberth_prepare(move):
    step("prepare")
    move.note("images.source", "/a")
    return True

@hookimpl
def reberth_sync(move):
    step("sync")
    return [Tree("filesystem", "/fs", "/fs")]

@hookimpl
def reberth_checkpoint(move, round):
    step("checkpoint")
    move.source.call("dump")
    move.note("images_bytes", 5000)
    parcels = (Tree("images", "/a", "/b"), Tree("filesystem-delta", "/fs", "/fs"))
    return Checkpoint(parcels, Iteration(round.index, bytes=4096), 1_000_000_500, 1_200_000_500)

@hookimpl
def reberth_restore(move, receipts):
    step("restore")
    calls.append([r.kind for r in receipts])
    move.target.call("restore")
    return Restored("web", 1)

@hookimpl
def reberth_commit(move):
    step("commit")
    return True

@hookimpl
def reberth_rollback(move):
    step("rollback")
    return True
"""
TRANSPORT = """
fail = {}

@hookimpl
def reberth_describe():
    return Declaration("a transport", frozenset({Role.TRANSPORT, Role.CONNECTOR}), carries=frozenset({Channel.FILES}))

@hookimpl
def reberth_connect(node):
    return Route()

@hookimpl
def reberth_receive(move, round):
    calls.append("receive")
    return True

@hookimpl
def reberth_transfer(move, parcel):
    calls.append(parcel.kind)
    if fail.get(parcel.kind):
        what = fail[parcel.kind].pop(0)
        if isinstance(what, BaseException):
            raise what
        what()
    return Receipt(parcel.kind, parcel.into, 100, 2)
"""
PLAN = Plan(
    id="20261123-000000-abcd",
    workload=Workload("a", "box", "web"),
    source=Node("a", connector="wire", backends=("box",), transports=("wire",)),
    target=Node("b", connector="wire", backends=("box",), transports=("wire",)),
    target_name="web",
    mode=Mode.STOP_AND_COPY,
    why="",
    options=Options(),
    routes={Channel.FILES.value: "wire"},
)


class Theatre:
    """One run: ends, shells, plugins, journal and what was told."""

    def __init__(self, make_plugin, **options) -> None:
        self.plan = replace(PLAN, options=Options(**options))
        self.log: list[tuple[str, str]] = []
        self.ends = FakeSource(), FakeTarget()
        self.box, self.wire = make_plugin("box", "BACKEND", BACKEND), make_plugin("wire", TRANSPORT)
        self.stage = Stage(Catalog(extra={"box": self.box, "wire": self.wire}, environ={"REBERTH_PLUGINS": ""}))
        nodes = (self.plan.source, self.plan.target)
        self.shells = [FakeShell(n, e, self.log) for n, e in zip(nodes, self.ends, strict=True)]
        self.told: list[tuple[str, str]] = []
        self.journal = Journal(self.plan.id)
        self.journal.write("plan", format=1, plan=plain(self.plan))
        tell = lambda event: self.told.append((event.kind, event.text or event.phase))  # noqa: E731
        self.session = Session(self.plan, self.journal, tuple(self.shells), tell, self.reconnect)
        self.engine = Engine(self.stage, self.session, Report.of_plan(self.plan))

    @property
    def source(self) -> FakeSource:
        return self.ends[0]

    @property
    def target(self) -> FakeTarget:
        return self.ends[1]

    def reconnect(self, name: str) -> FakeShell:
        side = ("a", "b").index(name)
        if not self.ends[side].reachable:
            raise UnreachableError(f"{name} is away")
        self.shells[side] = FakeShell((self.plan.source, self.plan.target)[side], self.ends[side], self.log)
        return self.shells[side]

    def run(self) -> Report:
        report = self.engine.run()
        self.check(report)
        return report

    def check(self, report: Report) -> None:
        """What holds after every run: one end in the journal, the report beside it, nobody left connected."""
        ends = [r for r in self.journal.records if r["event"] == "end"]
        assert (ends[-1]["outcome"], ends[-1]["exit_code"]) == (report.outcome, report.exit_code)
        assert Report.load(self.journal.dir / "report.json").outcome == report.outcome
        assert all(s is None or s.closed for s in self.session.ends)
        assert not (self.source.running and self.target.copy == "running")
        if report.exit_code == Exit.ROLLED_BACK:
            assert self.source.running and self.target.copy == "none"

    def ops(self, *unwanted: str) -> list[str]:
        return [f"{node} {op}" for node, op in self.log if op not in ("facts", "log_tails", *unwanted)]

    def events(self) -> list[str]:
        return [r["event"] for r in self.journal.records]


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(session_module, "GIVE_UP_S", 0.02)
    quick = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: time.sleep(0.03))
    monkeypatch.setattr(session_module, "time", quick)
