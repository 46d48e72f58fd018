"""The two halves of a move: `checkpoint` writes a workload into a directory and ends it, `restore` starts it again."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reberth.archive import directory as store
from reberth.archive.directory import Directory, Tape
from reberth.archive.remote import ARCHIVE, Carrier, FarDirectory, Place, fetch, new_place, parse_place
from reberth.config.config import Config
from reberth.config.names import parse_source, parse_target
from reberth.config.paths import state_dir
from reberth.config.request import Request
from reberth.connect.api import require_login
from reberth.connect.helper import HelperShell
from reberth.connect.plain import require_helper
from reberth.plan.planner import make_plan
from reberth.report.report import Report
from reberth.run import begin
from reberth.run.engine import Engine
from reberth.run.session import Session
from reberth_hooks import Mode, Options, Owner, Plan, ReberthError, RefusedError, UsageError, plain

if TYPE_CHECKING:
    from reberth.host import Host


def checkpoint(host: Host, request: Request, directory: Path) -> Report:
    """Dump a workload into a new or empty directory and give it up there; a failure lets it run on.

    `directory` is one of this machine, or `NODE:/DIRECTORY`.
    """
    place = parse_place(str(directory), host.config.nodes)
    if place is None:
        return _checkpoint(host, request, directory)
    with _carrier(host, place) as (carrier, here):
        new_place(place, carrier)
        return _checkpoint(host, request, here, place, carrier)


def _checkpoint(
    host: Host, request: Request, directory: Path, place: Place | None = None, carrier: Carrier | None = None
) -> Report:
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{str(directory)!a} is not empty", hint="name a new directory")
    wanted = parse_source(request.source, host.config)
    node = host.config.node(wanted.node)
    shell = host.shell_of(node.name)
    require_helper(shell)
    require_login(shell)
    source = Tape.of(shell)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours = store.node_like(node)
    words: tuple[Any, ...] = (directory.resolve(), ours, host.stage.connect(ours), {}, source)
    target = FarDirectory(place, carrier, *words) if place and carrier else Directory(*words)
    plan = _plan(host, Request(request.source, f"{store.NAME}:", request.options, request.backend), source, target)

    def about() -> dict[str, object]:
        dump = {**(session.recall("dump") or {}), "frozen_ns": 0, "held_ns": 0}
        return {"plan": plain(plan), "answers": source.answers, "dump": dump, "hello": _lasting(source.facts)}

    session = _session(host, plan, source, target)
    plan = session.plan
    target.about = about
    report = Engine(host.stage, session, Report.of_plan(plan)).run()
    report.target = str(place or directory)
    if isinstance(target, FarDirectory) and target.stranded:
        _told_stranded(report, target, target.stranded)
    if report.outcome == "moved":
        report.owner, report.downtime_s, report.downtime_error_s = Owner.NOBODY.value, None, None
    if problem := session.journal.keep_report(report):
        report.warnings.append(problem)
    return report


def _told_stranded(report: Report, target: FarDirectory, error: ReberthError) -> None:
    """The last step on the far node failed: what is left where."""
    if report.outcome == "moved":
        report.target = str(target.path)
        (target.path.parent / "only-copy").touch()
        text = f"the last step at {target.place} failed ({error.message}); the whole checkpoint is in {target.path}"
    else:
        text = f"{target.place} may still hold {ARCHIVE}, which is of no use: {error.message}"
    report.warnings.append(text)


@contextlib.contextmanager
def _carrier(host: Host, place: Place) -> Iterator[tuple[Carrier, Path]]:
    """The way to a place, and a private directory here, which goes unless it holds the only copy."""
    node = host.config.node(place.node)
    carrier = Carrier(node, host.stage.connect(node))
    staging = state_dir() / "staging"
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    here = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=staging))
    (here / "files").mkdir(mode=0o700)
    try:
        yield carrier, here / "files"
    finally:
        (here / ARCHIVE).unlink(missing_ok=True)
        if not (here / "only-copy").exists():
            shutil.rmtree(here, ignore_errors=True)


def restore(host: Host, directory: Path, target_text: str, options: Options) -> Report:
    """Start a workload from a directory that this controller wrote; the directory stays as it is.

    `directory` is one of this machine, or `NODE:/DIRECTORY`.
    """
    place = parse_place(str(directory), host.config.nodes)
    if place is None:
        return _restore(host, directory, str(directory), target_text, options)
    with _carrier(host, place) as (carrier, here):
        fetch(place, carrier, here)
        return _restore(host, here, str(place), target_text, options)


def _restore(host: Host, directory: Path, name_of_it: str, target_text: str, options: Options) -> Report:
    kept = store.read_signed(directory)
    node_name, name = parse_target(target_text)
    node = host.config.node(node_name)
    workload = kept["plan"]["workload"]
    ours = store.node_like(node)
    source = Directory(directory.resolve(), ours, host.stage.connect(ours), kept)
    target = host.shell_of(node.name)
    require_helper(target)
    require_login(target)
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
    report = Report.of_plan(session.plan)
    report.source = name_of_it
    return Engine(host.stage, session, report).run()


def _plan(host: Host, request: Request, source: HelperShell, target: HelperShell) -> Plan:
    """Return a plan between the two; refused ones end here, with every reason.

    All goes over while it stands still: pages left behind could not be asked of the source later, which is given up.
    """
    request = replace(request, options=replace(request.options, mode=Mode.STOP_AND_COPY))
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
    plan, journal = begin.begin(plan)
    return Session(plan, journal, (source, target), host.stage.event, host.shell_of)


def _lasting(facts: dict[str, object]) -> dict[str, object]:
    """Of what a node says, what is as true at the restore: its kind, not its clocks."""
    return {k: facts[k] for k in ("arch", "kernel", "page_bytes", "cap_eff")}
