"""Two nodes in memory: what each operation does to an end, effect by effect, so that any of them may be the last.

Every operation is a generator that yields after each effect. Whoever drives it may stop in between: that is a helper
that was killed there, or one that is still at it while somebody else looks. The effects and their order are those of
`reberth.node.runs.source`, `reberth.node.runs.target` and the action script; a test compares the keys of the facts.

Reason for its length: both ends and what a controller sees of them are one model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from reberth_hooks import ConnectionLostError, HelperError, Route

Effects = Iterator[None]


class RefusedByEndError(Exception):
    """The end refuses or fails an operation (the helper's OpError)."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(message or kind)
        self.kind = kind


class End:
    """What both ends share: a helper that lives or not, a journal, and an operation that may be half done."""

    def __init__(self) -> None:
        self.helper = self.reachable = True
        self.opened = self.wiped = False
        self.journal: list[str] = []
        self.job = ""
        self.ended = ""
        self.half_done: Effects | None = None
        self.left: list[str] = []  # what could not be undone
        self.changed: Callable[[], None] = lambda: None

    def note(self, event: str) -> None:
        self.journal.append(event)

    def has(self, event: str) -> bool:
        return event in self.journal

    def run(self, effects: Effects, most: int = 1000) -> bool:
        """Let at most so many effects happen; true when that was all. What is left goes on later, under its lock."""
        for _ in range(most):
            try:
                next(effects)
            except StopIteration:
                self.changed()
                return True
            self.changed()
        self.half_done = effects
        return False

    def finish_half_done(self) -> None:
        """What waits for a lock waits for the end of this."""
        effects, self.half_done = self.half_done, None
        if effects is not None:
            try:
                self.run(effects)
            except RefusedByEndError:
                self.changed()

    def adopt(self) -> None:
        if not self.helper:
            self.helper, self.half_done, self.job = True, None, ""

    def end(self, outcome: str) -> None:
        self.ended = self.ended or outcome

    def remains(self) -> str:
        """What the tasks do of which the lost journal does not tell."""
        raise NotImplementedError

    def facts_when_lost(self) -> dict[str, Any]:
        """What `remains` answers, and what the controller makes of it."""
        return {"lost": True, "remains": self.remains(), "lazy": False, "there": "it knows nothing of it"}


class FakeSource(End):
    """The source; `tasks` and not `frozen`: it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.vote: str | None = None
        self.tasks, self.frozen, self.rebooted = True, False, False

    @property
    def running(self) -> bool:
        return self.tasks and not self.frozen

    def dump(self) -> Effects:
        if self.vote is not None:
            raise RefusedByEndError("decided")
        self.note("freezing")
        yield
        self.frozen, self.job = True, "post-dump"
        yield
        self.note("held")

    def cast(self, value: str) -> Effects:
        self.vote = self.vote or value
        yield

    def release(self, how: str, aborted: bool = False) -> Effects:
        yield from self._kill() if how == "kill" else self._resume(aborted)

    def _kill(self) -> Effects:
        if self.vote != "READY" or self.has("resuming"):
            raise RefusedByEndError("protocol")
        if not self.has("released"):
            self.note("releasing")
            yield
            self.job, self.tasks = "", False
            yield
            self.note("released")

    def _resume(self, aborted: bool) -> Effects:
        self.vote = self.vote or "RESUME"
        yield
        if (self.vote == "READY" and not aborted) or self.has("releasing"):
            raise RefusedByEndError("protocol")
        if not self.has("resumed"):
            self.note("resuming")
            yield
            self.job = ""
            yield
            self.frozen = False
            yield
            self.note("resumed")

    def lost(self) -> Effects:
        """Nobody is heard of any more; a node that restarted when its dump was whole leaves the copy alone."""
        over = self.vote == "RESUME" or self.has("released") or self.has("resumed")
        if self.wiped or (self.rebooted and self.has("held") and not over):
            return
        if self.has("released"):
            self.end("moved")
        elif not self.ended and (self.vote != "READY" or self.has("resumed")):
            yield from self._resume(self.has("resumed"))
            self.end("rolled-back")

    def die(self) -> None:
        """The helper is killed; a script that waits acts alone."""
        self.helper, self.half_done = False, None
        if self.job:
            self.job, self.vote = "", self.vote or "RESUME"
            self.frozen = self.frozen and self.vote != "RESUME"

    def reboot(self) -> None:
        self.helper, self.half_done, self.job = False, None, ""
        self.tasks, self.frozen, self.rebooted = False, False, True

    def wipe(self) -> None:
        """The state directory goes: no vote can be cast, the helper leaves, and what the fence holds stays held."""
        self.helper, self.half_done, self.job, self.wiped, self.opened = False, None, "", True, False

    def remains(self) -> str:
        return "" if not self.tasks else "frozen" if self.frozen else "running"

    def settle_lost(self, how: str) -> Effects:
        if how == "kill":
            self.tasks = False
        self.frozen = False
        yield

    def facts(self) -> dict[str, Any]:
        gone = (self.has("freezing") or self.rebooted) and not self.has("releasing") and not self.tasks
        return {
            "role": "source",
            "vote": self.vote,
            "ended": self.ended,
            "froze": self.has("freezing"),
            "held": self.has("held"),
            "released": self.has("released"),
            "resumed": self.has("resumed"),
            "tasks": int(self.tasks),
            "gone": gone,
            "rebooted": self.rebooted,
            "lost": self.wiped,
            "frozen": self.frozen,
            "holding": self.helper and self.job == "post-dump",
            "cgroup": "/cg/source",
            "stats": {"pages_written": 7} if self.has("released") else {},
        }


class FakeTarget(End):
    """The target; `copy` is none, held, landing (let go, not yet fenced again), frozen, running or dead."""

    def __init__(self, lazy: bool = False) -> None:
        super().__init__()
        self.verdict: str | None = None
        self.copy, self.rebooted = "none", False
        self.vetoed = False
        self.tool, self.never_ran = True, True  # criu lives; what a failed landing proves
        self.lazy, self.feeder = lazy, lazy  # `feeder`: the daemon that brings in the pages lives
        self.hears: Callable[[], str | None] = lambda: None  # the source's vote, on the line between the helpers
        self.short = False  # of memory

    def restore(self) -> Effects:
        if self.verdict is not None:
            raise RefusedByEndError("decided")
        self.note("restoring")
        yield
        self.copy, self.job = "held", "post-restore"
        yield
        self.note("copy-held")

    def decide(self, value: str) -> Effects:
        if value == "PERMIT" and self.verdict is None and not self.facts()["holding"]:
            value = "ABORT"
        self.verdict = self.verdict or value
        yield
        yield from self._land() if self.verdict == "PERMIT" else self._take_back()

    def _land(self) -> Effects:
        if self.has("landed"):
            yield from self._go()
            return
        if self.has("landing-failed"):
            raise RefusedByEndError("landing")
        if self.job != "post-restore" or not self.tool:
            self.never_ran = self.vetoed or self.job == "post-restore"
            yield from self._fail()
        self.job, self.copy = "", "landing"
        yield
        if not self.tool:  # killed before the fence: for a moment the copy was nobody's
            self.never_ran = False
            yield from self._fail()
        self.copy = "frozen"
        yield
        self.note("landed")
        yield
        yield from self._go()

    def _fail(self) -> Effects:
        self.copy = "none"
        yield
        self.note("landing-failed")
        raise RefusedByEndError("landing")

    def _go(self) -> Effects:
        if not self.has("running"):
            self.copy = "running" if self.copy == "frozen" else self.copy
            yield
            self.note("running")

    def _take_back(self) -> Effects:
        if not self.has("taken-back"):
            self.job = ""
            yield
            self.copy = "none"
            yield
            self.note("taken-back")

    def look(self) -> Effects:
        """Whether the copy lives a moment after it began to run."""
        if not self.has("looked") and not self.has("look-failed"):
            yield
            self.note("looked" if self.copy == "running" else "look-failed")
        if self.has("look-failed"):
            raise RefusedByEndError("ill")

    def fill(self) -> Effects:
        if self.lazy and self.has("fill-failed"):
            raise RefusedByEndError("fill")
        if self.lazy and not self.has("filled"):
            yield
            self.note("filled" if self.feeder else "fill-failed")
            if not self.feeder:
                raise RefusedByEndError("fill")

    def discard(self) -> Effects:
        causes = ("fill-failed", "note-verify-failed", "look-failed", "note-given-up")
        if not any(map(self.has, causes)) and not self.rebooted:
            raise RefusedByEndError("protocol")
        self.copy = "none"
        yield
        if not self.has("taken-back"):
            self.note("taken-back")

    def finish(self) -> Effects:
        if not self.has("cleaned"):
            yield
            self.note("cleaned")

    def lost(self) -> Effects:
        if self.ended or self.wiped or self.has("landing-failed"):
            return
        value = "ABORT"
        if self.facts()["keeps"] and self.verdict is None:
            value = {"READY": "PERMIT", "RESUME": "ABORT"}.get(self.hears() or "", "ABORT" if self.short else "")
        if not value:
            return
        yield from self.decide(value)
        if self.verdict == "PERMIT":
            yield from self.look()
            yield from self.fill()
            yield from self.finish()
        self.end("moved" if self.verdict == "PERMIT" else "rolled-back")

    def die(self) -> None:
        """The helper is killed: the script's veto ends a held copy, its fence holds one that was let go."""
        self.helper, self.half_done = False, None
        if self.job:
            self.job, self.copy, self.verdict = "", "none", self.verdict or "ABORT"
            self.vetoed = True
        if self.copy == "landing":
            self.copy = "frozen"

    def end_tool(self) -> None:
        """criu is killed: what it holds is silent, what it has let go and not fenced is not."""
        self.tool = False

    def end_copy(self) -> None:
        """The copy ends by itself, or dies of something."""
        self.copy = "dead" if self.copy == "running" else self.copy

    def reboot(self) -> None:
        self.helper, self.half_done, self.job = False, None, ""
        self.copy, self.rebooted, self.feeder = "none", True, False

    def wipe(self, helper_too: bool = True) -> None:
        """The state directory goes; a helper that lives goes on to hold what it holds, and can let go of nothing."""
        self.half_done, self.wiped, self.opened = None, True, False
        if helper_too or self.copy != "held":
            self.helper, self.copy = False, "none" if self.job else self.copy
        self.copy, self.job = "frozen" if self.copy == "landing" else self.copy, ""

    def remains(self) -> str:
        return "" if self.copy == "none" else self.copy

    def settle_lost(self, how: str) -> Effects:
        self.copy = "none" if how == "kill" else "running"
        yield

    def facts(self) -> dict[str, Any]:
        return {
            "role": "target",
            "verdict": self.verdict,
            "ended": self.ended,
            "restoring": self.has("restoring"),
            "landed": self.has("landed"),
            "landing_failed": self.has("landing-failed"),
            "may_have_run": self.has("landing-failed") and not self.never_ran,
            "cleaned": self.has("cleaned"),
            "lazy": self.lazy and self.has("restoring"),
            "filled": self.has("filled"),
            "fill_failed": self.has("fill-failed"),
            "taken_back": self.has("taken-back"),
            "unseen": self.has("running") and not self.has("looked") and not self.has("look-failed"),
            "ill": self.has("look-failed"),
            "running_ns": 3_000_000_000 if self.has("running") else 0,
            "tasks": int(self.copy not in ("none", "dead")),
            "frozen": self.copy == "frozen",
            "holding": self.helper and self.tool and self.job == "post-restore",
            "keeps": self.helper and self.tool and self.job == "post-restore",
            "needs_source": False,
            "given_up": "",
            "rebooted": self.rebooted,
            "lost": self.wiped,
            "cgroup": "/cg/target",
        }


# The controller's side of an end


class FakeShell:
    """A helper's answers without a helper; `broken` maps an operation to what happens to its next calls, in order.

    An exception is raised instead of the operation, a pair ("after", exception) once it is done, ("some", n) after n of
    its effects as a lost connection, a function is called before it.
    """

    def __init__(self, node: Any, end: FakeSource | FakeTarget, log: list[tuple[str, str]]) -> None:
        self.node, self.route, self.ending, self.log = node, Route(), end, log
        self.broken: dict[str, list[Any]] = {}
        self.on_wait: Callable[[], None] = lambda: None
        self.closed = ""
        self.is_open = True
        self.probed: list[dict[str, Any]] = []  # what the next probes see
        self.left: list[str] = []

    def clock(self) -> tuple[int, int]:
        return 500, 40

    def call(self, op: str, /, *, timeout_s: float | None = 30.0, **args: Any) -> Any:
        self.on_wait()
        self.log.append((self.node.name, op))
        if self.closed or not self.ending.reachable:
            raise ConnectionLostError(f"{self.node.name} is away ({op})")
        if not self.ending.helper and op != "adopt":
            raise ConnectionLostError(f"the helper on {self.node.name} is gone ({op})")
        after, most = None, 1000
        fault = self.broken.get(op) or []
        if fault:
            what = fault.pop(0)
            if isinstance(what, BaseException):
                raise what
            if isinstance(what, tuple):
                after = what[1] if what[0] == "after" else ConnectionLostError("cut")
                most = what[1] if what[0] == "some" else most
            else:
                what()
                self.on_wait()
        self.ending.finish_half_done()
        try:
            answer = self._do(op, args, most)
        except RefusedByEndError as error:
            raise HelperError(f"{self.node.name}: {error}", kind=error.kind) from error
        if after is not None:
            raise after
        return answer

    def _do(self, op: str, args: dict[str, Any], most: int) -> Any:
        end, effects = self.ending, {
            "dump": lambda: end.dump(),
            "restore": lambda: end.restore(),
            "vote": lambda: end.cast(args["value"]),
            "release": lambda: end.release(args["how"], args.get("aborted", False)),
            "decide": lambda: end.decide(args["value"]),
            "look": lambda: end.look(),
            "fill": lambda: end.fill(),
            "discard": lambda: end.discard(),
            "finish": lambda: end.finish(),
        }  # fmt: skip
        if op == "open":
            end.opened = True
            return {"dir": "/run", "socket": "/ctl"}
        if op == "adopt":
            end.adopt()
            return {"live": True, "known": end.opened}
        if not end.opened and op in (*effects, "facts", "end"):
            raise RefusedByEndError("protocol")
        if op == "settle_remains":
            end.run(end.settle_lost(args["how"]), most)
        if op in ("remains", "settle_remains"):
            return {"remains": end.remains(), "cgroup": "/cg/reberth-ID", "tasks": 2, "pids": [7, 8]}
        if op in effects:
            end.run(effects[op](), most)
        if op == "end":
            end.end(args["outcome"])
            return {"left": end.left}
        if op == "verify":
            return self.probed.pop(0) if self.probed else {"good": True, "problem": ""}
        if op == "note":
            end.note(f"note-{args['event']}")
        kept = {"log_tails": {}, "leftovers": list(self.left)}
        return kept[op] if op in kept else end.facts()

    def kill(self) -> None:
        self.closed = self.closed or "killed"

    def close(self) -> None:
        self.closed = self.closed or "closed"
