"""The engine: drives one plan through its phases, then lets the protocol settle it; every run gets one journaled end.

A failure in any phase is no special path: the run is settled with `Want.BACK` instead of `Want.FORWARD`, by the same
function and the same steps that `recover` uses.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

from reberth.protocol import Decision, Step, Want, decide
from reberth.report import Report
from reberth.rounds import rounds, why_stop
from reberth.session import Session
from reberth.stage import Stage
from reberth_hooks import (
    BusyError,
    Checkpoint,
    Exit,
    HelperError,
    Iteration,
    Level,
    Owner,
    ReberthError,
    Receipt,
    Tree,
    plain,
)

PHASE_OF = {"images": "final-transfer", "filesystem-delta": "final-sync", "filesystem": "initial-sync"}
COUNTERS = ("pages_scanned", "pages_written", "pages_skipped_parent", "frozen_us")
MAX_STEPS, MAX_FAILURES = 40, 3
# Before the first phase these say that nothing was touched; once a phase began the run is rolled back instead.
UNTOUCHED = (Exit.USAGE, Exit.REFUSED, Exit.BUSY, Exit.UNTRUSTED, Exit.UNREACHABLE, Exit.PLUGIN)


class InterruptedRunError(ReberthError):
    """^C, SIGTERM or `reberth abort` ended the run."""

    code = "interrupted"


class TimedOutError(ReberthError):
    """`--timeout` ran out before PERMIT."""

    code, exit_code = "timeout", Exit.TIMEOUT


class DetachedRunError(Exception):
    """A second ^C while the run is settled: the nodes finish alone."""


class Engine:
    """One run; `run` answers its report and raises only what is a bug of ours."""

    def __init__(self, stage: Stage, session: Session, report: Report) -> None:
        self.stage, self.session, self.report = stage, session, report
        self.journal = session.journal
        self.begun = time.monotonic()
        self.cause: BaseException | None = None
        self.history: list[Iteration] = []
        self.final: Checkpoint | None = None
        self.settling = False

    def run(self) -> Report:
        """Migrate, settle, and close both ends."""
        with self._signals():
            want = Want.FORWARD
            try:
                self._open()
                self._phases()
            except (ReberthError, KeyboardInterrupt) as error:
                self._failed(error)
                want = Want.BACK
            except Exception as error:
                self._failed(error)
                want = Want.BACK
            self.settling = True
            signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                with self.phase("commit" if want is Want.FORWARD else "rollback", want is Want.FORWARD):
                    decision = self.settle(want)
            except DetachedRunError:
                text = "the nodes finish or roll back alone"
                decision = Decision(None, text, "detached", Owner.NOBODY, Exit.DETACHED)
        self._finish(decision)
        return self.report

    def resume(self, want: Want) -> Report:
        """Settle a run that another process began; the same steps, and the same end."""
        self.settling = True
        with self._signals():
            try:
                with self.phase("recover", False):
                    decision = self.settle(want)
            except DetachedRunError:
                decision = Decision(None, "left to the nodes", "detached", Owner.NOBODY, Exit.DETACHED)
        if decision.outcome == "rolled-back":
            decision = replace(decision, exit_code=Exit.DONE)  # what was asked for is done
        self._finish(decision)
        return self.report

    # The phases

    def _open(self) -> None:
        """Take the workload's lock on both nodes."""
        plan = self.session.plan
        for side, role, name in ((0, "source", plan.workload.name), (1, "target", plan.target_name)):
            end = (self.session.source, self.session.target)[side]
            workload = f"{plan.workload.backend}/{name}"
            try:
                self.session.opened[side] = end.call("open", run_id=plan.id, role=role, workload=workload)
            except HelperError as error:
                if error.kind != "busy":
                    raise
                other = error.message.rpartition(" ")[2]
                text = f"{workload} on node {end.node.name} is busy with run {other}"
                raise BusyError(text, hint=f"reberth status {other}, or: reberth recover {other}") from error
            self.journal.write("opened", side=role, **self.session.opened[side])

    def _phases(self) -> None:
        session, stage = self.session, self.stage
        receipts: list[Receipt] = []
        with self.phase("prepare", False):
            stage.prepare(session)
            for transport_round in rounds(session.plan.mode, session.plan.options, []):
                stage.receive(session, transport_round)
                break
        trees = stage.sync(session)
        if trees:
            with self.phase("initial-sync"):
                receipts += [self._carry(tree) for tree in trees]
        for round_ in rounds(session.plan.mode, session.plan.options, self.history):
            with self.phase("final-dump" if round_.final else "pre-dump"):
                got = stage.checkpoint(session, round_)
            self.history.append(got.iteration)
            self.final = got if round_.final else self.final
            for parcel in got.parcels:
                if isinstance(parcel, Tree):
                    with self.phase(PHASE_OF.get(parcel.kind, "final-transfer")):
                        receipts.append(self._carry(parcel))
        with self.phase("restore"):
            stage.restore(session, tuple(receipts))
        self.report.stop_reason = why_stop(session.plan.options, self.history[:-1]) or "single round"

    def _carry(self, tree: Tree) -> Receipt:
        receipt = self.stage.transfer(self.session, tree)
        if tree.kind != "images":
            self.report.bytes["filesystem"] += receipt.bytes_sent
        return receipt

    @contextlib.contextmanager
    def phase(self, name: str, reported: bool = True) -> Iterator[None]:
        """Journal, announce and time one phase; a failure remembers where it was."""
        self.session.phase = name
        self.journal.write("phase", name=name)
        self.session.emit("phase")
        started = time.monotonic()
        yield
        if reported:
            self.report.add_phase(name, started - self.begun, time.monotonic() - started)

    # The end of a run

    def settle(self, want: Want) -> Decision:
        """Do what the protocol says until the run has an end; a step that fails turns the wish to `BACK`."""
        failures: dict[Step, int] = {}
        decision = decide({}, {}, Want.BACK)
        for _ in range(MAX_STEPS):
            source, target = self.session.look()
            unlanded = self.session.plan.options.on_failure == "rollback"
            decision = decide(source, target, want, rollback_unlanded=unlanded)
            step = decision.step
            if step is None:
                return decision
            if failures.get(step, 0) >= MAX_FAILURES:
                break
            self.journal.write("step", step=step.value, why=decision.why)
            self.session.emit("step", f"{step.value}: {decision.why}")
            try:
                self._perform(step)
            except ReberthError as error:
                failures[step] = failures.get(step, 0) + 1
                self.journal.write("step-failed", step=step.value, message=error.message)
                self._failed(error)
                self.session.forget()
                want = Want.BACK
        landed = bool((self.session.look()[1] or {}).get("landed"))
        if landed:
            return Decision(None, decision.why, "moved", Owner.TARGET, Exit.CLEANUP_PENDING)
        return Decision(None, f"{decision.step} does not succeed", "held", Owner.NOBODY, Exit.HELD)

    def _perform(self, step: Step) -> None:
        session = self.session
        if step is Step.ASK_READY:
            session.learn(0, session.source.call("vote", value="READY"))
        elif step in (Step.PERMIT, Step.ABORT):
            value = "PERMIT" if step is Step.PERMIT else "ABORT"
            session.learn(1, session.target.call("decide", value=value, timeout_s=120.0))
        elif step is Step.COMMIT:
            facts = session.source.call("release", how="kill", timeout_s=120.0)
            self._stats(facts)
            self.stage.commit(session)
            session.learn(0, facts)
        elif step is Step.FINISH:
            session.learn(1, session.target.call("finish", timeout_s=60.0))
        else:
            aborted = step is Step.RESUME_ABORTED
            facts = session.source.call("release", how="resume", aborted=aborted, timeout_s=60.0)
            self.stage.rollback(session)
            session.learn(0, facts)

    def _failed(self, error: BaseException) -> None:
        """Remember the first cause, with the tools' logs as long as they exist."""
        if self.cause is not None:
            return
        self.cause = error
        if isinstance(error, KeyboardInterrupt):
            self.cause = InterruptedRunError("interrupted", hint="nothing is lost; start it again when you like")
        self.report.error = {"phase": self.session.phase}
        self.journal.write("failed", phase=self.session.phase, error=repr(error))
        for side, word in ((0, "source"), (1, "target")):
            directory = self.session.recall(f"images.{word}")
            end = self.session.ends[side]
            if directory and end is not None:
                with contextlib.suppress(ReberthError):
                    logs = end.call("log_tails", directory=directory, timeout_s=5.0)
                    self.journal.keep_logs(f"{word}-{end.node.name}", logs)

    def _stats(self, facts: dict[str, Any]) -> None:
        """CRIU's own counters, which exist only after the final dump has ended."""
        stats = facts.get("stats") or {}
        if self.history and stats:
            kept = {
                k: int(stats.get(k, 0)) for k in ("pages_scanned", "pages_written", "pages_skipped_parent", "frozen_us")
            }
            self.report.rounds = [plain(i) for i in self.history[:-1]] + [{**plain(self.history[-1]), **kept}]

    def _finish(self, decision: Decision) -> None:
        """Fill the report, write the ends, close the connections."""
        report, session = self.report, self.session
        self._times(session._facts[1] or {})
        if decision.outcome in ("moved", "rolled-back") and decision.exit_code is not Exit.CLEANUP_PENDING:
            for end in session.ends:
                with contextlib.suppress(ReberthError):
                    if end is not None:
                        end.call("end", outcome=decision.outcome, timeout_s=15.0)
        report.outcome, report.owner = decision.outcome, decision.owner.value
        report.exit_code = int(decision.exit_code)
        if self.cause is not None:
            self._error(decision)
        elif decision.outcome == "held" and report.error is None:
            report.error = {"code": "held", "message": decision.why, "hint": "", "log_tail": "", "phase": "commit"}
        if not report.rounds:
            report.rounds = [plain(i) for i in self.history]
        report.warnings += [c.reason for c in session.plan.checks if c.level is Level.WARN]
        report.total_s = report.total_s or time.monotonic() - self.begun
        self.journal.write("end", outcome=report.outcome, owner=report.owner, exit_code=report.exit_code)
        report.save(self.journal.dir / "report.json")
        session.phase = "end"
        session.emit("end", **{k: getattr(report, k) for k in ("outcome", "exit_code", "downtime_s")})
        session.close()

    def _error(self, decision: Decision) -> None:
        cause, report = self.cause, self.report
        assert cause is not None
        ours = isinstance(cause, ReberthError)
        report.error = {
            "code": getattr(cause, "code", "bug") if ours else "bug",
            "message": getattr(cause, "message", "") or f"{type(cause).__name__}: {cause}",
            "hint": getattr(cause, "hint", ""),
            "log_tail": getattr(cause, "tail", ""),
            "phase": (report.error or {}).get("phase", ""),
        }
        if decision.outcome != "rolled-back":
            return
        froze = bool((self.session._facts[0] or {}).get("froze"))
        code = getattr(cause, "exit_code", Exit.BUG)
        if isinstance(cause, HelperError) and cause.kind == "ended":
            report.outcome, report.owner, report.exit_code = "ended", Owner.NOBODY.value, int(Exit.ENDED)
        elif code in UNTOUCHED and not froze:
            report.outcome, report.exit_code = "refused", int(code)
        elif code is Exit.TIMEOUT:
            report.exit_code = int(Exit.TIMEOUT)
        elif not ours:
            self.journal.write("bug", error=repr(cause))
            report.exit_code = int(Exit.BUG)

    def _times(self, target: dict[str, Any]) -> None:
        """Downtime across two clocks: each end's stamp less that node's offset, the bounds added."""
        report, final = self.report, self.final
        if final is None:
            return
        pages = final.iteration.bytes
        report.bytes["pages"] = pages
        report.bytes["images"] = int(self.session.recall("images_bytes") or pages) - pages
        report.frozen_s = (final.held_ns - final.frozen_ns) / 1e9
        running_ns, ends = int(target.get("running_ns") or 0), self.session.ends
        if running_ns and ends[0] is not None and ends[1] is not None:
            (here, here_error), (there, there_error) = ends[0].clock(), ends[1].clock()
            report.downtime_s = ((running_ns - there) - (final.frozen_ns - here)) / 1e9
            report.downtime_error_s = (here_error + there_error) / 1e9
        report.restore_s = next((p["seconds"] for p in report.phases if p["name"] == "restore"), None)

    # Signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """^C and SIGTERM stop a phase; while the run is settled the first is noted and the second detaches."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = 0

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal heard
            if not self.settling:
                raise KeyboardInterrupt
            heard += 1
            if heard > 1:
                raise DetachedRunError
            self.session.emit("warning", "the run is being settled; once more leaves it to the nodes")

        def late(number: int, frame: FrameType | None) -> None:
            if not self.settling:
                raise TimedOutError(f"not done within {self.session.plan.options.timeout_s:g} s")

        old = {
            s: signal.signal(s, h) for s, h in ((signal.SIGINT, stop), (signal.SIGTERM, stop), (signal.SIGALRM, late))
        }
        if self.session.plan.options.timeout_s:
            signal.setitimer(signal.ITIMER_REAL, self.session.plan.options.timeout_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in old.items():
                signal.signal(number, handler)
