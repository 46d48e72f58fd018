"""`recover`: bring a run to its end from the journals alone, by the function that the engine itself runs.

It is killable at any point and idempotent: every step is an operation of a node helper that looks at its own journal
first. What it may not decide alone it leaves held, and says which word of the user's would decide it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reberth.report.report import Report
from reberth.run.decide import Want, decide
from reberth.run.decision import named
from reberth.run.engine import Engine
from reberth.run.journal import Journal, NewerFormatError, run_dir
from reberth.run.opened import words_given
from reberth.run.session import Session
from reberth_hooks import Event, HelperError, Mode, Node, Options, Plan, ReberthError, Workload

if TYPE_CHECKING:
    from reberth.connect.helper import HelperShell
    from reberth.host import Host

SLOW_S = 2.0
SAID = {
    "source_is_dead": "the source is taken for dead; if it is alive and cut off, the workload runs twice from now on",
    "target_is_gone": "the target is taken for gone; if a copy runs there, the workload runs twice from now on",
}


def recover(host: Host, run_id: str | None, how: str, dry_run: bool, gone: Collection[str] = ()) -> list[Any]:
    """Settle the named run, or every open one; returns a Report each, with `dry_run` what would be done.

    `gone` are the operator's words about nodes that never come back: `source_is_dead`, `target_is_gone`.
    """
    if run_id:
        run_dir(run_id)
    return [_readable(host, name, how, dry_run, gone) for name in ([run_id] if run_id else host.open_runs())]


def _readable(host: Host, run_id: str, how: str, dry_run: bool, gone: Collection[str]) -> Any:
    """One run; that of a later version stays as it is, and is no reason to leave the others alone."""
    try:
        return _one(host, run_id, how, dry_run, gone)
    except NewerFormatError as error:
        why = f"{error.message}; {error.hint}"
        return {"id": run_id, "outcome": "held", "why": why, "exit_code": int(error.exit_code)}


def plan_from(data: Mapping[str, Any]) -> Plan:
    """Return the plan as the journal holds it; its checks and facts served their purpose and are left out."""
    options = {k: v for k, v in data["options"].items() if k in Options.__dataclass_fields__}
    options["mode"], options["skip"] = Mode(options["mode"]), tuple(options["skip"])
    options["verify"] = tuple(options.get("verify", ()))
    options["given"] = tuple(options.get("given", ()))
    return Plan(
        id=data["id"],
        workload=Workload(**data["workload"]),
        source=_node(data["source"]),
        target=_node(data["target"]),
        target_name=data["target_name"],
        mode=Mode(data["mode"]),
        why=data["why"],
        options=Options(**options),
        routes=data["routes"],
        details=data["details"],
        # Plans of 0.1 do not say it: then only a managed backend carried its own data.
        managed=data.get("managed", data["workload"]["backend"] in data["routes"].values()),
    )


def _node(data: Mapping[str, Any]) -> Node:
    lists = {k: tuple(data.get(k) or ()) for k in ("backends", "transports", "wrappers")}
    return Node(**{**data, **lists})


def _one(host: Host, run_id: str, how: str, dry_run: bool, gone: Collection[str]) -> Any:
    journal = Journal(run_id)
    journal.readable()
    pid, last = journal.controller(), journal.last("controller", "end") or {}
    if pid and last["event"] == "controller":  # an end after it: that process is through with this run
        raise journal.driven()
    record = journal.last("plan")
    if record is None:
        journal.write("end", outcome="refused", owner="source", exit_code=2)
        return {"id": run_id, "outcome": "refused", "why": "it never got a plan"}
    plan = plan_from(record["plan"])
    if dry_run:
        return _preview(_session(host, journal, plan, how, gone, look=True), _want(how))
    journal.settle()  # a full disk of this machine stops no way back: what the nodes say decides
    journal.claim()  # before any node is asked: two that settle one run would answer for each other's steps
    try:
        host.observe()
        session = _session(host, journal, plan, how, gone)
        journal.write("recover", how=how)
        if gone:
            journal.write("word", **dict.fromkeys(gone, True))
            for word in gone:
                session.emit("warning", SAID[word])
        report = Report.of_plan(plan)
        with contextlib.suppress(ReberthError, OSError):
            report = Report.load(journal.dir / "report.json")
        return Engine(host.stage, session, report).resume(_want(how))
    finally:
        journal.release()


def _want(how: str) -> Want:
    return Want.FORWARD if how == "forward" else Want.BACK


def _session(
    host: Host, journal: Journal, plan: Plan, how: str, gone: Collection[str], *, look: bool = False
) -> Session:
    """Both ends as far as they can be reached; a node that does not answer at once is named while it is waited for."""
    reach = host.way(plan)

    def wait_for(node: str) -> None:
        host.stage.event(Event("warning", "recover", f"waiting for node {node}: it does not answer yet"))

    ends = _attach(reach, plan, look, wait_for)
    session = Session(plan, journal, ends, host.stage.event, reach, host.stage.answer)
    _hear(session, how, gone)
    return session


def _hear(session: Session, how: str, gone: Collection[str]) -> None:
    """Tell the session what the operator has typed, now or before."""
    session.on_word, session.forward = how == "rollback", how == "forward"
    known = words_given(session.journal)
    session.source_is_dead = "source_is_dead" in gone or known["source_is_dead"]
    session.target_is_gone = "target_is_gone" in gone or known["target_is_gone"]


def _attach(
    reach: Callable[[str], HelperShell], plan: Plan, look: bool, wait_for: Callable[[str], None]
) -> tuple[HelperShell | None, HelperShell | None]:
    """Return both ends with the run taken over, and None for an end that cannot be reached now."""
    found: list[HelperShell | None] = []
    for node in (plan.source, plan.target):
        with _named_when_slow(node.name, wait_for):
            found.append(_adopted(reach, node.name, plan.id, look))
    return found[0], found[1]


def _adopted(reach: Callable[[str], HelperShell], node: str, run_id: str, look: bool) -> HelperShell | None:
    """One end with the run taken over, or None; NewerFormatError where a later version began the run."""
    try:
        end = reach(node)
    except ReberthError:
        return None
    try:
        end.call("adopt", run_id=run_id, look=look)
    except ReberthError as error:  # not adopted it would answer that it knows no such run
        end.close()
        if isinstance(error, HelperError) and error.kind == "newer-format":
            raise NewerFormatError(error.message, hint=error.hint) from error
        return None
    return end


@contextlib.contextmanager
def _named_when_slow(node: str, wait_for: Callable[[str], None]) -> Iterator[None]:
    """Say what is waited for when it takes longer than a login does."""
    timer = threading.Timer(SLOW_S, wait_for, (node,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _preview(session: Session, want: Want) -> dict[str, Any]:
    """Return what both ends say, and the next step."""
    source, target = session.look()
    decision = named(decide(source, target, want, **session.words()), session.id)
    session.leave()
    return {
        "id": session.id,
        "source": source,
        "target": target,
        "step": decision.step.value if decision.step else "none",
        "why": decision.why,
        "outcome": decision.outcome,
    }
