"""The engine: drives one plan through its phases, then lets the protocol settle it; every run gets one journaled end.

A failure in any phase is no special path: the run is settled with `Want.BACK` instead of `Want.FORWARD`, by the same
function and the same steps that `recover` uses.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from reberth.config.version import version
from reberth.node.system.durable import give_reserve
from reberth.plan.busy import busy
from reberth.plugin.stage import Stage
from reberth.report.report import Report
from reberth.run import opened, outcome
from reberth.run.decide import Decision, Step, Want, decide
from reberth.run.decision import named
from reberth.run.memory import travel, why_ended
from reberth.run.rounds import rounds
from reberth.run.session import Session
from reberth.run.signals import DetachedRunError, Interrupts
from reberth.run.steps import perform
from reberth.run.verify import UNVERIFIED, VerifyError, take_back
from reberth_hooks import Checkpoint, Exit, HelperError, Iteration, Owner, ReberthError, Receipt, Tree

MAX_STEPS, MAX_FAILURES = 40, 3
DISK = "this machine's disk did not take"


class Engine:
    """One run; `run` answers its report and raises only what is a bug of ours."""

    def __init__(self, stage: Stage, session: Session, report: Report) -> None:
        self.stage, self.session, self.report = stage, session, report
        self.journal = session.journal
        self.begun = time.monotonic()
        self.cause: BaseException | None = None
        self.failed_in = ""
        self.history: list[Iteration] = []
        self.final: Checkpoint | None = None
        self.stats: dict[str, Any] = {}
        self.images_sent: int | None = None
        self.interrupts = Interrupts(session.plan.options.timeout_s, lambda text: session.emit("warning", text))
        session.on_wait = self.interrupts.check

    def run(self) -> Report:
        """Migrate, settle, and close both ends."""
        want = Want.FORWARD
        with self.interrupts.listening():
            try:
                self._open()
                self._phases()
            except Exception as error:
                self._failed(error)
                want = Want.BACK
            decision = self._end("commit" if want is Want.FORWARD else "rollback", want)
        return self._finish(decision)

    def resume(self, want: Want) -> Report:
        """Settle a run that another process began; the same steps, and the same end."""
        outcome.set_aside_error(self.report)
        self.interrupts.brisk = True
        with self.interrupts.listening():
            decision = self._end("recover", want)
        if decision.outcome == "rolled-back":
            decision = replace(decision, exit_code=Exit.DONE)  # what was asked for is done
        return self._finish(decision)

    # The phases

    def _open(self) -> None:
        """Take the workload's lock on both nodes."""
        plan = self.session.plan
        start = plan.details.get("start_ticks")
        identity = {"version": version(), **({"start_ticks": start} if start else {})}
        for side, role, name in ((0, "source", plan.workload.name), (1, "target", plan.target_name)):
            end = (self.session.source, self.session.target)[side]
            workload = f"{plan.workload.backend}/{name}"
            self.journal.write("opening", side=role)
            try:
                self.session.opened[side] = end.call("open", run_id=plan.id, role=role, workload=workload, **identity)
            except HelperError as error:
                if error.kind != "busy":
                    raise
                raise busy(workload, end.node.name, error.message.rpartition(" ")[2]) from error
        self.session.limit()

    def _phases(self) -> None:
        session, stage = self.session, self.stage
        receipts: list[Receipt] = []
        with self.phase("prepare", False):
            stage.prepare(session)
            stage.receive(session, next(iter(rounds(session.plan.rounds_mode, session.plan.options, []))))
        if trees := stage.sync(session):
            with self.phase("initial-sync"):
                receipts += [self._carry(tree) for tree in trees]
        self.final, carried = travel(stage, session, self.history, self.phase, self._carry)
        with self.phase("restore"):
            stage.restore(session, (*receipts, *carried))
        self.report.stop_reason = why_ended(self.final, session, self.history)

    def _carry(self, tree: Tree) -> Receipt:
        receipt = self.session.carried(self.stage.transfer(self.session, tree))
        if tree.kind == "images":
            self.images_sent = receipt.bytes_sent
        else:
            self.report.bytes["memory" if tree.kind == "memory" else "filesystem"] += receipt.bytes_sent
        return receipt

    @contextlib.contextmanager
    def phase(self, name: str, reported: bool = True) -> Iterator[None]:
        """Journal, announce and time one phase; a failure remembers where it was."""
        self.session.phase = name
        self.journal.write("phase", name=name)
        self.session.emit("phase")
        self.interrupts.check()
        started = time.monotonic()
        yield
        if not self.interrupts.settling:
            self.interrupts.check()  # a phase shorter than a slice of waiting has heard nothing
        if reported:
            self.report.add_phase(name, started - self.begun, time.monotonic() - started)

    # The end of a run

    def _end(self, name: str, want: Want) -> Decision:
        self.interrupts.settle()
        self.journal.settle()
        try:
            if want is Want.BACK:
                self.session.close_pipe()  # or a tree would go on to arrive where it is being removed
            with self.phase(name, want is Want.FORWARD):
                return self.settle(want)
        except DetachedRunError:
            return Decision(None, "the nodes finish alone", "detached", Owner.NOBODY, Exit.DETACHED)
        except Exception as error:  # whatever it was: the user is told that the run is open, and how it is ended
            self._failed(error)
            return Decision(None, "the run could not be settled", "held", Owner.NOBODY, Exit.HELD)

    def settle(self, want: Want) -> Decision:
        """Do what the protocol says until the run has an end; a step that fails turns the wish to `BACK`."""
        failures: dict[Step, int] = {}
        for _ in range(MAX_STEPS):
            source, target = self.session.look()
            decision = decide(source, target, want, **self.session.words())
            step = decision.step
            if step is None:
                return self._tidy(named(decision, self.session.id))
            if failures.get(step, 0) >= MAX_FAILURES:
                break
            self.journal.write("step", step=step.value, why=decision.why, **opened.seen((source, target)))
            self.session.emit("step", f"{step.value}: {decision.why}")
            try:
                self.stats = perform(step, self.session, self.stage, self.phase) or self.stats
            except (ReberthError, OSError) as error:
                failures[step] = failures.get(step, 0) + 1
                self.journal.write("step-failed", step=step.value, message=str(error))
                self._failed(error)
                self.session.forget()
                want = Want.BACK
                if isinstance(error, VerifyError) and not take_back(self.session):
                    return UNVERIFIED
        target = self.session.look()[1] or {}
        if target.get("landed") and not target.get("unseen"):
            return Decision(None, "the source is not cleaned up", "moved", Owner.TARGET, Exit.CLEANUP_PENDING)
        return Decision(None, "the run cannot be settled now", "held", Owner.NOBODY, Exit.HELD)

    def _tidy(self, decision: Decision) -> Decision:
        """Let the backend clean up, also what nodes left that went back alone; `recover` tries what fails again."""
        back = decision.outcome == "rolled-back" and self.session.plan.managed
        if not back and (decision.outcome != "moved" or self.session.recall("committed")):
            return decision
        try:
            (self.stage.rollback if back else self.stage.commit)(self.session)
        except ReberthError as error:
            self._failed(error)
            return replace(decision, exit_code=Exit.CLEANUP_PENDING)
        self.session.note("put-back" if back else "committed", True)
        return decision

    def _failed(self, error: BaseException) -> None:
        """Remember the first cause, with the tools' logs as long as they exist."""
        if self.cause is not None:
            return
        self.cause, self.failed_in = error, self.session.phase
        lines = [] if isinstance(error, ReberthError) else traceback.format_exception(error)
        self.journal.settle()  # there is only the way back now, which a full disk must not stop
        self.journal.write("failed", phase=self.session.phase, error=repr(error), traceback="".join(lines))
        self.session.keep_logs()

    def _finish(self, decision: Decision) -> Report:
        """Fill the report, write the ends, close the connections."""
        report, session = self.report, self.session
        session.on_wait = lambda: None  # too late for any signal: what the run came to is written
        total_s = time.monotonic() - self.begun
        outcome.fill_costs(report, session, self.final, self.history, self.stats, self.images_sent, total_s)
        outcome.fill_end(report, session, decision, self.cause, self.failed_in)
        self._keep()  # before the nodes are told: from then on only this report knows
        if decision.outcome in ("moved", "rolled-back", "ended") and decision.exit_code is not Exit.CLEANUP_PENDING:
            report.warnings += (left := session.end_all(decision.outcome))
            if left and report.outcome == "moved" and not session.source_is_dead:
                report.exit_code = int(Exit.CLEANUP_PENDING)
        outcome.name_leftovers(report, session)
        words = {"outcome": report.outcome, "owner": report.owner, "exit_code": report.exit_code}
        self.journal.write("end", **words, untold=session.untold)
        self._keep()
        if not outcome.is_open(words) and not session.untold:  # else `recover` has more to write
            give_reserve(str(self.journal.dir))
        session.phase = "end"
        session.emit("end", **{k: getattr(report, k) for k in ("outcome", "exit_code", "downtime_s")})
        session.close(keep_pages=report.outcome not in ("moved", "rolled-back", "ended", "refused"))
        self.journal.release()
        return report

    def _keep(self) -> None:
        """Write the report; a disk that does not take it, or took no record, is a warning: the run is as it is."""
        problem = self.journal.keep_report(self.report) or self.journal.failure
        if problem:
            text = f"{DISK} all of it ({problem}); the nodes know the run"
            self.report.warnings = [*(w for w in self.report.warnings if not w.startswith(DISK)), text]
