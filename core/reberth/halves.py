"""The two halves of a move: `checkpoint` writes a workload into a directory and ends it, `restore` starts it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reberth import store
from reberth.config import Config
from reberth.engine import Engine
from reberth.helper import HelperShell
from reberth.journal import Journal
from reberth.names import parse_source, parse_target
from reberth.planner import make_plan
from reberth.report import Report
from reberth.request import Request
from reberth.session import Session
from reberth.store import Directory, Tape
from reberth_hooks import Options, Owner, Plan, RefusedError, UsageError, plain

if TYPE_CHECKING:
    from reberth.host import Host


def checkpoint(host: Host, request: Request, directory: Path) -> Report:
    """Dump a workload into a new or empty directory and give it up there; a failure lets it run on."""
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{str(directory)!a} is not empty", hint="name a new directory")
    wanted = parse_source(request.source, host.config)
    node = host.config.node(wanted.node)
    source = Tape.of(host.shell_of(node.name))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours = store.node_like(node)
    target = Directory(directory.resolve(), ours, host.stage.connect(ours), {}, source)
    plan = _plan(host, Request(request.source, f"{store.NAME}:", request.options, request.backend), source, target)

    def about() -> dict[str, object]:
        dump = {**(session.recall("dump") or {}), "frozen_ns": 0, "held_ns": 0}
        return {"plan": plain(plan), "answers": source.answers, "dump": dump, "hello": _lasting(source.facts)}

    session = _session(host, plan, source, target)
    target.about = about
    report = Engine(host.stage, session, Report.of_plan(plan)).run()
    report.target = str(directory)
    if report.outcome == "moved":
        report.owner, report.downtime_s, report.downtime_error_s = Owner.NOBODY.value, None, None
    report.save(session.journal.dir / "report.json")
    return report


def restore(host: Host, directory: Path, target_text: str, options: Options) -> Report:
    """Start a workload from a directory that this controller wrote; the directory stays as it is."""
    kept = store.read_signed(directory)
    node_name, name = parse_target(target_text)
    node = host.config.node(node_name)
    workload = kept["plan"]["workload"]
    ours = store.node_like(node)
    source = Directory(directory.resolve(), ours, host.stage.connect(ours), kept)
    target = host.shell_of(node.name)
    words = f"{store.NAME}:{workload['backend']}/{workload['name']}"
    old = kept["plan"]["options"]
    same = Options(
        tcp_established=old["tcp_established"],
        tcp_close=old["tcp_close"],
        skip=options.skip,
        timeout_s=options.timeout_s,
        lazy_restore=options.lazy_restore,
    )
    plan = _plan(host, Request(words, f"{node_name}:{name}", same), source, target)
    session = _session(host, plan, source, target)
    report = Report.of_plan(plan)
    report.source = str(directory)
    return Engine(host.stage, session, report).run()


def _plan(host: Host, request: Request, source: HelperShell, target: HelperShell) -> Plan:
    """A plan between the two; refused ones end here, with every reason."""
    ends = {source.node.name: source, target.node.name: target}
    config = Config({name: end.node for name, end in ends.items()}, host.config.defaults, host.config.files)
    plan = make_plan(request, config, host.stage, lambda name: ends[name])
    if plan.refused:
        for end in ends.values():
            end.close()
        first = plan.refused[0]
        raise RefusedError("; ".join(c.reason for c in plan.refused), hint=first.remedy)
    return plan


def _session(host: Host, plan: Plan, source: HelperShell, target: HelperShell) -> Session:
    host.observe()
    journal = Journal(plan.id)
    journal.write("plan", format=1, plan=plain(plan))
    journal.claim()
    return Session(plan, journal, (source, target), host.stage.event, host.shell_of)


def _lasting(facts: dict[str, object]) -> dict[str, object]:
    """Of what a node says, what is as true at the restore: its kind, not its clocks."""
    return {k: facts[k] for k in ("arch", "kernel", "page_bytes", "cap_eff")}
