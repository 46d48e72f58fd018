"""One migration under way: the Move that phases see, and the two ends that the protocol looks at."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from reberth.connect import boot
from reberth.connect import process as shell
from reberth.connect.helper import Answer, Asked, HelperShell
from reberth.run import opened
from reberth.run.control import Wishes
from reberth.run.journal import Journal
from reberth_hooks import ConnectionLostError, Event, HelperError, Mode, Pending, Plan, ReberthError, Receipt

GIVE_UP_S = 6.0


class Session:
    """State of one run on the controller; what must last is in `journal` and in the nodes' own."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        shells: tuple[HelperShell | None, HelperShell | None],
        tell: Callable[[Event], None],
        reconnect: Callable[[str], HelperShell],
        answer: Answer | None = None,
    ) -> None:
        """`answer` (`Stage.answer`): of a near-live move the backend tells what became, as helpers hold nothing."""
        self.plan, self.journal = plan, journal
        self.ends: list[HelperShell | None] = list(shells)
        self.opened: list[dict[str, Any]] = [{}, {}]
        self.aborted = False
        self.on_word = False  # `recover --rollback`: the operator prefers the source even to a copy that may have run
        self.forward = False  # `recover --forward`: what a lost journal would have proven is taken for true
        self.source_is_dead, self.target_is_gone = False, False  # typed in full
        self.untold: list[str] = []  # ends that may have something left and could not be told that the run is over
        self.phase = "prepare"
        self._tell, self._reconnect = tell, reconnect
        self._pipes: list[shell.Process] = []
        self._pages: list[shell.Process] = []
        self._progress_s = time.monotonic()
        self._wishes = Wishes(journal.dir)
        self.packing = "none"  # how trees are compressed
        self.raw_bytes, self.wire_bytes = 0, 0  # of all trees: what they hold, and what went over
        self.switched = ""  # the mode that the user wants from now on
        self.on_wait: Callable[[], None] = lambda: None
        self._answer = answer if plan.mode is Mode.NEAR_LIVE else None
        for end in self.ends:
            if end is not None:
                end.on_wait, end.move, end.answer = self._wait, self, self._answer
        self._facts: list[dict[str, Any] | None] = [None, None]

    # What a phase may know (reberth_hooks.Move)

    @property
    def id(self) -> str:
        """Return the run's id."""
        return self.plan.id

    @property
    def source(self) -> HelperShell:
        """Return the source's shell; ConnectionLostError when it cannot be reached."""
        return self.end(0)

    @property
    def target(self) -> HelperShell:
        """Return the target's shell."""
        return self.end(1)

    def _wait(self) -> None:
        """Called by both ends while they wait for an answer: what the user wants meanwhile is heard here."""
        self._hear()
        self.on_wait()

    def _hear(self) -> None:
        news = self._wishes.news()
        if "bandwidth_bytes_s" in news:
            self.limit(int(news["bandwidth_bytes_s"]))
        if "compress" in news:
            self.compress(str(news["compress"]))
        if news.get("mode") and not self.switched:
            if news["mode"] in (self.plan.facts.get("unfit") or ()):
                self.emit("warning", f"this run cannot become {news['mode']}: see its plan")
            else:
                self.switched = str(news["mode"])

    @property
    def why_switched(self) -> str:
        """Return why the rounds have ended, when the user wanted it; else empty."""
        return f"on request: {self.switched}" if self.switched else ""

    def limit(self, bytes_s: int | None = None) -> None:
        """Limit what the source sends, as planned if not said otherwise; an end out of reach has other troubles."""
        if bytes_s is None and self.journal.last("compress") is None:
            self.compress("auto")  # unless the user wanted another while the ends were opened
        rate = self.plan.options.bandwidth_bytes_s if bytes_s is None else bytes_s
        if bytes_s is None and not rate:
            return
        with contextlib.suppress(ReberthError):
            self.source.begin("limit", bytes_s=rate)
            self.journal.write("limit", bytes_s=rate)

    def compress(self, word: str) -> None:
        """Compress trees by this method from the next piece on; `auto` is what the plan found."""
        planned = (self.plan.facts.get("measured") or {}).get("compress") or {}
        method = planned.get("method", "none") if word == "auto" else word
        if method == self.packing:
            return
        if method not in ("none", *planned.get("can", ())):
            self.emit("warning", f"the two nodes cannot both compress by {method}")
            return
        self.packing = method
        with contextlib.suppress(ReberthError):
            for end in (self.target, self.source):
                end.begin("compress", method=method)
            self.journal.write("compress", method=method)

    def carried(self, receipt: Receipt) -> Receipt:
        """Count what a tree took of the connection."""
        self.raw_bytes += receipt.bytes_sent
        self.wire_bytes += receipt.bytes_sent if receipt.wire_bytes is None else receipt.wire_bytes
        return receipt

    def packed(self) -> dict[str, Any]:
        """Return how trees were compressed, for the report: empty where they never were."""
        planned = (self.plan.facts.get("measured") or {}).get("compress") or {}
        words = [r["method"] for r in self.journal.records if r["event"] == "compress" and r["method"] != "none"]
        if not words and self.wire_bytes == self.raw_bytes:
            return {}
        method, why = words[-1] if words else "none", planned.get("why", "")
        return {"method": method, "why": why, "raw_bytes": self.raw_bytes, "wire_bytes": self.wire_bytes}

    def end(self, side: int) -> HelperShell:
        """Return the shell of one end; ConnectionLostError when it cannot be reached."""
        found = self.ends[side]
        if found is None:
            node = (self.plan.source, self.plan.target)[side].name
            raise ConnectionLostError(f"node {node} cannot be reached")
        return found

    def note(self, key: str, value: Any) -> None:
        """Journal a fact of a phase."""
        self.journal.write("note", key=key, value=value)

    def recall(self, key: str) -> Any:
        """Return the last value of a fact."""
        for record in reversed(self.journal.records):
            if record["event"] == "note" and record["key"] == key:
                return record["value"]
        return None

    def emit(self, kind: str, text: str = "", **data: Any) -> None:
        """Tell the observers."""
        if kind == "progress":
            self._progress_s = time.monotonic()
        self._tell(Event(kind, self.phase, text, data))

    def open_pipe(self) -> None:
        """Join both nodes by one pipe of the kernel's: source's connection writes, target's reads, nothing between."""
        if self._pipes:
            return
        argv = [
            shell.route_argv(end.route, boot.bulk_argv(self.opened[side]["socket"]), bulk=True)
            for side, end in enumerate((self.source, self.target))
        ]
        out = shell.connect(argv[0], stdin=shell.NOWHERE, stderr=shell.NOWHERE)
        assert out.stdout is not None
        into = shell.connect(argv[1], stdin=out.stdout, stdout=shell.NOWHERE, stderr=shell.NOWHERE)
        out.stdout.close()
        self._pipes = [out, into]
        ready = [end.begin("pipe_ready") for end in (self.source, self.target)]
        for waiting in ready:
            waiting.result(25.0)

    def open_pages(self) -> None:
        """Join both nodes by a connection for pages, both ways; it outlives this process, as the nodes do."""
        if self._pages:
            return
        back_r, back_w = os.pipe()
        try:
            argv = [
                shell.route_argv(end.route, boot.bulk_argv(self.opened[side]["socket"], "pages"), pages=True)
                for side, end in enumerate((self.source, self.target))
            ]
            out = shell.connect(argv[0], stdin=back_r, stderr=shell.NOWHERE)
            self._pages = [out]
            assert out.stdout is not None
            self._pages.append(shell.connect(argv[1], stdin=out.stdout, stdout=back_w, stderr=shell.NOWHERE))
            out.stdout.close()
        finally:
            os.close(back_r)
            os.close(back_w)
        for waiting in [end.begin("pages_ready") for end in (self.source, self.target)]:
            waiting.result(25.0)

    def gather(self, *pending: Pending, stall_s: float = 15.0) -> list[Any]:
        """Wait for all; raises the first failure, or ConnectionLostError when no byte has moved for `stall_s`."""
        from concurrent.futures import FIRST_EXCEPTION, wait

        futures = [p.future for p in pending if isinstance(p, Asked)]
        self._progress_s = time.monotonic()
        while True:
            done, waiting = wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION)
            if any(f.exception() is not None for f in done):
                raise self._root_cause(futures)
            self._wait()
            if not waiting:
                return [f.result() for f in futures]
            if time.monotonic() - self._progress_s > stall_s:
                text = f"no byte has moved for {stall_s:g} s"
                raise ConnectionLostError(text, hint="is the link cut, or a node suspended?")

    @staticmethod
    def _root_cause(futures: list[Any]) -> BaseException:
        """Of two ends that fail together the receiver's own reason (a full disk) says more than a broken pipe."""
        from concurrent.futures import wait

        wait(futures, timeout=0.5)
        errors: list[BaseException] = [f.exception() for f in futures if f.done() and f.exception() is not None]
        for error in errors:
            if isinstance(error, HelperError) and "end" not in error.message.lower():
                return error
        return errors[0]

    # What the protocol looks at

    def look(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Facts of both ends, asked for where the last step did not bring them; None for one that is out of reach."""
        for side in (0, 1):
            if self._facts[side] is None:
                found = self._ask(side)  # an empty answer is one: this node was never asked to open the run
                self._facts[side] = found or opened.told_facts(self.journal, side) or found
        return self._facts[0], self._facts[1]

    def words(self) -> dict[str, bool]:
        """Return what the operator allows `decide` beyond its default, and that the source's vote READY was read."""
        return {
            "rollback_unlanded": self.plan.options.on_failure == "rollback",
            "on_word": self.on_word,
            "forward": self.forward,
            "source_is_dead": self.source_is_dead,
            "target_is_gone": self.target_is_gone,
            "ready": opened.ready_seen(self.journal),
        }

    def prefers_source(self) -> bool:
        """Tell whether a copy that runs and is not well goes for the source."""
        return self.plan.options.on_failure == "rollback" or self.on_word or self.target_is_gone

    def learn(self, side: int, facts: Any) -> None:
        """Take what an operation answered for what is so now; None: look again."""
        self._facts[side] = facts if isinstance(facts, dict) and "role" in facts else None

    def known(self, side: int) -> dict[str, Any] | None:
        """Return what was last learned of an end, without asking."""
        return self._facts[side]

    def forget(self) -> None:
        """Look again at both ends."""
        self._facts = [None, None]

    def _ask(self, side: int) -> dict[str, Any] | None:
        deadline, told = time.monotonic() + GIVE_UP_S, False
        while True:
            end = self.ends[side]
            with contextlib.suppress(ReberthError):  # whatever it was, this end could not be asked
                if end is not None:
                    return self._facts_of(side, end)
            if end is not None:
                end.kill()
                self.ends[side] = None
            if time.monotonic() > deadline:
                return None
            if not told:
                node = (self.plan.source, self.plan.target)[side].name
                self.emit("warning", f"waiting for node {node}, which does not answer")
                told = True
            with contextlib.suppress(ReberthError):
                self.ends[side] = self.attach(side)
            if self.ends[side] is None:
                time.sleep(0.5)

    def _facts_of(self, side: int, end: HelperShell) -> dict[str, Any]:
        try:
            facts = dict(end.call("facts", timeout_s=15.0))
        except HelperError as error:
            if error.kind != "protocol":
                raise
            if not opened.was_opened(self.journal, side):
                return {}  # it was never asked to open the run
            return opened.told_facts(self.journal, side) or opened.lost_facts(self.journal, side, end)
        return opened.lost_facts(self.journal, side, end) if facts.get("lost") else facts

    def attach(self, side: int) -> HelperShell:
        """Connect anew and take over the run there, from a helper that still lives or from its journal."""
        node = (self.plan.source, self.plan.target)[side]
        end = self._reconnect(node.name)
        try:
            end.call("adopt", run_id=self.id)
        except ReberthError:
            end.close()
            raise
        end.on_wait, end.move, end.answer = self._wait, self, self._answer
        return end

    def keep_logs(self) -> None:
        """Keep the tools' logs of both ends beside the report, while their directories exist."""
        for word, end in zip(("source", "target"), self.ends, strict=True):
            directory = self.recall(f"images.{word}")
            if directory and end is not None:
                with contextlib.suppress(ReberthError):
                    logs = end.call("log_tails", directory=directory, timeout_s=5.0)
                    self.journal.keep_logs(f"{word}-{end.node.name}", logs)

    def end_all(self, outcome: str) -> list[str]:
        """Write the end on both nodes; returns what could not be undone there, or that one could not be told."""
        left: list[str] = []
        for side, end in enumerate(self.ends):
            if (self._facts[side] or {}).get("lost"):
                continue  # there is no journal into which it could be written
            answer = None if end is None else self._write_end(side, outcome)
            if answer is None and (end is not None or opened.may_be_left(self.journal, side)):
                node = (self.plan.source, self.plan.target)[side]
                self.untold.append(opened.SIDES[side])
                text = f"node {node.name} could not be told that the run has ended"
                left.append(f"{text}; when it answers: reberth recover {self.id}")
            elif answer is None or end is None:
                continue
            else:
                left += [f"left on node {end.node.name}: {text}" for text in answer.get("left", ())]
        return left

    def _write_end(self, side: int, outcome: str) -> dict[str, Any] | None:
        """Tell one end; once more through a new helper, as the old one may have died since its last answer."""
        with contextlib.suppress(ReberthError):
            return dict(self.end(side).call("end", outcome=outcome, timeout_s=15.0) or {})
        if (end := self.ends[side]) is not None:
            end.kill()
        self.ends[side] = None
        with contextlib.suppress(ReberthError):
            self.ends[side] = self.attach(side)
            return dict(self.end(side).call("end", outcome=outcome, timeout_s=15.0) or {})
        return None

    def close_pipe(self) -> None:
        """End the data connections: at once, as they stay open by themselves for as long as the helpers serve."""
        self._end_all(self._pipes)

    @staticmethod
    def _end_all(processes: list[shell.Process]) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in processes:
            shell.end(process)
        processes.clear()

    def leave(self) -> None:
        """End the connections without a word: a helper that serves an open run acts as if we were lost."""
        for end in self.ends:
            if end is not None:
                end.kill()

    def close(self, *, keep_pages: bool = False) -> None:
        """End all connections; the one for pages stays, with `keep_pages`, for as long as the nodes need it."""
        self.close_pipe()
        if not keep_pages:
            self._end_all(self._pages)
        for end in self.ends:
            if end is not None:
                end.close()
