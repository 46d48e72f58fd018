"""Who may run: every row of `decide` over all facts, and both ends in memory under random faults.

I1: never two running. I2: never none recoverable. I4: an end in bounded steps, that tells the truth.

Reason for its length: the rules, the rows and the model are read together or not at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from fakes import FakeSource, FakeTarget, RefusedByEndError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reberth.run.decide import Decision, Step, Want, Words, decide
from reberth_hooks import Exit, Owner

BOOLS = (False, True)
OUTCOMES = ("moved", "rolled-back", "held", "ended")
OF_SOURCE = (Step.ASK_READY, Step.COMMIT, Step.RESUME, Step.RESUME_ABORTED, Step.RESUME_ON_WORD)
OF_TARGET = (Step.PERMIT, Step.PERMIT_ON_WORD, Step.ABORT, Step.LOOK, Step.FINISH, Step.FILL, Step.DISCARD)
OF_LOST = {Step.END_LOST_SOURCE: "source", Step.THAW_LOST_SOURCE: "source", Step.END_LOST_TARGET: "target"}


VALUES: dict[str, tuple[Any, ...]] = {
    "vote": (None, "READY", "RESUME", "UNREADABLE"),
    "verdict": (None, "PERMIT", "ABORT", "UNREADABLE"),
    "ended": ("", "rolled-back"),
    "remains": ("", "running", "frozen", "held"),
    "there": ("what is there",),
    "given_up": ("",),
}


class UndecidedError(Exception):
    """Somebody reads a fact that has no value yet."""


class Open(Mapping[str, Any]):
    """Facts whose values are chosen when somebody reads them: each reading branches over all that it could be."""

    def __init__(self, side: str, chosen: dict[tuple[str, str], Any]) -> None:
        self.side, self.chosen = side, chosen

    def __getitem__(self, key: str) -> Any:
        if (self.side, key) not in self.chosen:
            raise UndecidedError(self.side, key)
        return self.chosen[self.side, key]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("a decision reads named facts")

    def __len__(self) -> int:
        return 1


def every_case(judge: Callable[[Any, Any], None]) -> int:
    """Call `judge` for every combination of the facts that it and `decide` look at; returns how many there were."""
    cases = 0
    for known in itertools.product((None, {}, Open), repeat=2):
        todo: list[dict[tuple[str, str], Any]] = [{}]
        while todo:
            chosen = todo.pop()
            ends = [k(side, chosen) if k is Open else k for side, k in zip(("source", "target"), known, strict=True)]
            try:
                judge(*ends)
                cases += 1
            except UndecidedError as error:
                side, key = error.args
                todo += [{**chosen, (side, key): value} for value in VALUES.get(key, BOOLS)]
    return cases


def wrong(source: Any, target: Any, words: Words, got: Decision) -> str:
    """The rule that this decision breaks, or nothing."""
    s_lost, t_lost = bool(source and source.get("lost")), bool(target and target.get("lost"))
    s_remains, t_remains = s_lost and source.get("remains"), t_lost and target.get("remains")
    from_source, from_target = {} if s_lost else source or {}, {} if t_lost else target or {}
    verdict, vote, step = from_target.get("verdict"), from_source.get("vote"), got.step
    woken = step in (Step.RESUME, Step.RESUME_ABORTED) and not from_source.get("gone")
    permitted, source_named = verdict == "PERMIT", step is None and got.owner is Owner.SOURCE
    rollback, prefers, dead = words.rollback_unlanded, words.prefers_source, words.source_is_dead
    rules: dict[str, Callable[[], Any]] = {
        "an end out of reach is asked": lambda: (
            (step in OF_TARGET and target is None) or (step in OF_SOURCE and source is None)
        ),
        "a lost end is asked what only its journal knows": lambda: (
            (step in OF_TARGET and t_lost) or (step in OF_SOURCE and s_lost)
            or (step in OF_LOST and not {"source": s_lost, "target": t_lost}[OF_LOST[step]])
        ),
        "the source wakes beside a PERMIT": lambda: (
            woken and permitted and not from_target.get("taken_back")
            and not ((rollback or prefers) and (from_target.get("landing_failed") or from_target.get("ended")))
        ),
        "the source wakes beside a copy that may have run": lambda: (
            woken and permitted and not from_target.get("taken_back")
            and from_target.get("may_have_run") and not prefers
        ),
        "the source wakes beside a landed copy": lambda: (
            woken and permitted and from_target.get("landed") and not from_target.get("taken_back")
        ),
        "the source wakes without the verdict": lambda: (
            woken and vote in ("READY", "UNREADABLE") and verdict not in ("ABORT", "PERMIT")
            and not from_target.get("taken_back")
        ),
        "the source wakes without a word": lambda: (
            step in (Step.RESUME_ON_WORD, Step.THAW_LOST_SOURCE) and not prefers
        ),
        "the source wakes on a word beside what may run": lambda: (
            step in (Step.RESUME_ON_WORD, Step.THAW_LOST_SOURCE)
            and (t_remains or (permitted and from_target.get("landed") and not from_target.get("taken_back")))
        ),
        "COMMIT without a landed copy": lambda: (
            step in (Step.COMMIT, Step.END_LOST_SOURCE) and not from_target.get("landed")
            and not (t_remains == "running" and words.forward)
        ),
        "COMMIT without a PERMIT": lambda: step is Step.COMMIT and not permitted and not t_lost,
        "COMMIT before all pages are in": lambda: (
            step in (Step.COMMIT, Step.END_LOST_SOURCE) and not t_lost
            and from_target.get("lazy") and not from_target.get("filled")
        ),
        "COMMIT of a source that was let run": lambda: step is Step.COMMIT and from_source.get("resumed"),
        "COMMIT beside a copy that a restart ended": lambda: step is Step.COMMIT and from_target.get("rebooted"),
        "COMMIT of a copy that was not seen to live": lambda: (
            step in (Step.COMMIT, Step.END_LOST_SOURCE) and from_target.get("unseen")
        ),
        "COMMIT of a copy that did not live": lambda: (
            step in (Step.COMMIT, Step.END_LOST_SOURCE) and from_target.get("ill") and not words.forward
        ),
        "moved, with a copy that did not live": lambda: (
            got.outcome == "moved" and permitted and from_target.get("ill")
        ),
        "DISCARD of a copy that is whole": lambda: (
            step is Step.DISCARD and not from_target.get("fill_failed") and not from_target.get("rebooted")
            and not from_target.get("ill")
            and not from_source.get("resumed") and s_remains != "running" and verdict != "UNREADABLE"
        ),
        "DISCARD without the operator's word": lambda: (
            step is Step.DISCARD and not prefers and not (source is None and dead)
            and not (rollback and (from_target.get("fill_failed") or from_target.get("ill")))
            and not from_source.get("resumed") and s_remains != "running"
        ),
        "tasks without a journal are ended without a word": lambda: (
            (step is Step.END_LOST_SOURCE and not words.forward)
            or (step is Step.END_LOST_TARGET and t_remains == "running" and not prefers)
        ),
        "what is left of a copy is ended while the source may be all there is": lambda: (
            step is Step.END_LOST_TARGET and not prefers and len(source) and s_remains != "running"
            and not (from_source.get("resumed") or from_source.get("ended"))
        ),
        "the first PERMIT without READY": lambda: (
            step is Step.PERMIT and verdict is None and vote != "READY" and not (source is None and words.ready)
        ),
        "the first PERMIT without a held copy": lambda: (
            step in (Step.PERMIT, Step.PERMIT_ON_WORD) and verdict is None and not from_target.get("holding")
        ),
        "PERMIT on a word that was not given": lambda: (
            step is Step.PERMIT_ON_WORD
            and not ((source is None and dead) or (s_lost and words.forward and s_remains != "running"))
        ),
        "the kept copy is given up though the source cannot be asked": lambda: (
            step is Step.ABORT and verdict is None and source is None
            and from_target.get("holding") and from_target.get("keeps")
        ),
        "RESUME of a source without tasks, of which a copy may be held": lambda: (
            step is Step.RESUME and target is None and from_source.get("gone") and from_source.get("held")
        ),
        "READY asked for without both held": lambda: (
            step is Step.ASK_READY and not (permitted and from_target.get("landed")) and not (
                from_target.get("holding")
                and (from_source.get("holding") or (from_source.get("gone") and from_source.get("held")))
            )
        ),
        "a verdict over another": lambda: (
            (step is Step.PERMIT and verdict == "ABORT") or (step is Step.ABORT and permitted)
        ),
        "anything by an unreadable verdict": lambda: (
            step is not None and verdict == "UNREADABLE" and not prefers and not from_target.get("taken_back")
        ),
        "an end without an outcome": lambda: step is None and got.outcome not in OUTCOMES,
        "an end of a source that nobody asked": lambda: source_named and source is None,
        "an end beside tasks that are frozen": lambda: (
            step is None and got.exit_code in (Exit.DONE, Exit.ROLLED_BACK, Exit.ENDED)
            and {s_remains, t_remains} & {"frozen", "held"} and not words.forward
        ),
        "the source is named beside a landed copy": lambda: (
            source_named and permitted and from_target.get("landed") and not from_target.get("taken_back")
        ),
        "a source whose tasks are gone is named": lambda: source_named and from_source.get("gone"),
        "a lost source is named that does not run": lambda: source_named and s_lost and s_remains != "running",
        "a source that was given up is named": lambda: (
            source_named and verdict is None and from_source.get("released")
        ),
        "the target is named without proof": lambda: (
            step is None and got.owner is Owner.TARGET and not (permitted and from_target.get("landed"))
            and not from_source.get("released") and t_remains != "running"
        ),
        "done with an end out of reach": lambda: (
            step is None and got.exit_code is Exit.DONE and source is None and not dead
        ),
        "held with another exit code": lambda: (
            got.outcome == "held" and got.exit_code not in (Exit.HELD, Exit.HELD_POST_COPY)
        ),
    }  # fmt: skip
    return "; ".join(name for name, broken in rules.items() if broken())


SAID: list[dict[str, bool]] = [
    {},
    {"rollback_unlanded": True},
    {"on_word": True},
    {"forward": True},
    {"ready": True},
    {"forward": True, "source_is_dead": True},
    {"on_word": True, "target_is_gone": True},
    {"target_is_gone": True, "source_is_dead": True},
    {"rollback_unlanded": True, "on_word": True, "ready": True},
]


@pytest.mark.parametrize("want", Want)
@pytest.mark.parametrize("said", SAID, ids=lambda said: "+".join(said) or "nothing")
def test_no_row_breaks_a_rule(want, said):
    broken: list[Any] = []
    seen = set()

    def judge(source: Any, target: Any) -> None:
        got = decide(source, target, want, **said)
        found = wrong(source, target, Words(**said), got)
        seen.add(got.step)
        if found:
            broken.append((found, got, [getattr(end, "chosen", end) for end in (source, target)]))

    assert every_case(judge) > 200
    assert broken[:3] == []
    words = Words(**said)
    optional = {Step.RESUME_ON_WORD, Step.PERMIT_ON_WORD, *OF_LOST}
    assert seen >= set(Step) - optional | {None}
    prefers = want is Want.BACK and words.prefers_source
    assert (Step.RESUME_ON_WORD in seen) is prefers
    assert (Step.THAW_LOST_SOURCE in seen) is words.prefers_source
    assert (Step.PERMIT_ON_WORD in seen) is (words.source_is_dead or words.forward)
    assert (Step.END_LOST_SOURCE in seen) is words.forward


FREE = {"role": "target", "verdict": None, "holding": True}
HELD = {"role": "source", "vote": None, "holding": True}
PERMIT = {"role": "target", "verdict": "PERMIT", "landed": False}
LANDED = {**PERMIT, "landed": True, "running_ns": 5}
READY = {**HELD, "vote": "READY"}


@pytest.mark.parametrize(
    ("source", "target", "want", "rollback", "expected"),
    [
        (HELD, FREE, Want.FORWARD, False, Step.ASK_READY),
        (READY, FREE, Want.FORWARD, False, Step.PERMIT),
        (READY, FREE, Want.BACK, False, Step.ABORT),
        (HELD, {**FREE, "holding": False}, Want.FORWARD, False, Step.ABORT),
        (READY, PERMIT, Want.BACK, True, Step.PERMIT),  # it may be landing this very moment
        (READY, {**PERMIT, "landing_failed": True}, Want.BACK, True, Step.RESUME_ABORTED),
        (READY, {**PERMIT, "landing_failed": True}, Want.BACK, False, "held"),
        (READY, {**PERMIT, "landing_failed": True}, Want.FORWARD, True, "held"),
        (READY, {**LANDED, "running_ns": 0}, Want.BACK, False, Step.PERMIT),  # its helper died before the thaw
        (READY, LANDED, Want.BACK, True, Step.COMMIT),
        (READY, {**LANDED, "rebooted": True}, Want.BACK, False, "held"),
        (READY, {**LANDED, "unseen": True}, Want.FORWARD, False, Step.LOOK),
        (READY, {**LANDED, "unseen": True}, Want.BACK, True, Step.LOOK),
        (READY, {**LANDED, "unseen": True, "lazy": True}, Want.FORWARD, False, Step.LOOK),  # before the pages are in
        (None, {**LANDED, "unseen": True}, Want.FORWARD, False, Step.LOOK),
        (READY, {**LANDED, "ill": True}, Want.FORWARD, True, "held"),
        (READY, {**LANDED, "ill": True}, Want.BACK, False, "held"),
        (READY, {**LANDED, "ill": True}, Want.BACK, True, Step.DISCARD),
        (READY, {**LANDED, "ill": True, "taken_back": True}, Want.BACK, True, Step.RESUME_ABORTED),
        ({**READY, "released": True}, LANDED, Want.BACK, False, Step.FINISH),
        ({**READY, "released": True}, {**LANDED, "cleaned": True}, Want.BACK, False, "moved"),
        ({**READY, "released": True}, {}, Want.BACK, False, "moved"),
        (None, LANDED, Want.BACK, False, "moved"),
        (READY, None, Want.BACK, True, "held"),
        (HELD, None, Want.FORWARD, False, Step.RESUME),
        ({**HELD, "vote": "RESUME", "resumed": True, "gone": True}, {}, Want.BACK, False, "ended"),
        ({}, {}, Want.BACK, False, "rolled-back"),
        (None, None, Want.BACK, False, "held"),
        (READY, {"verdict": "UNREADABLE"}, Want.BACK, True, "held"),
    ],
)
def test_rows_by_name(source, target, want, rollback, expected):
    got = decide(source, target, want, rollback_unlanded=rollback)
    assert (got.step or got.outcome) == expected


def test_a_copy_that_may_have_run_needs_the_operators_word():
    """Killed between "go" and its fence the copy may have run for milliseconds: no journal proves that it never did."""
    maybe = {**PERMIT, "landing_failed": True, "may_have_run": True}
    for words in ({}, {"rollback_unlanded": True}):
        got = decide(READY, maybe, Want.BACK, **words)
        assert (got.step, got.outcome, got.exit_code) == (None, "held", Exit.HELD)
    assert decide(READY, maybe, Want.FORWARD, on_word=True).outcome == "held"
    assert decide(READY, maybe, Want.BACK, on_word=True).step is Step.RESUME_ABORTED


def test_a_copy_that_a_restart_ended_can_be_given_up_on_the_operators_word():
    gone = {**LANDED, "rebooted": True}
    assert decide(READY, gone, Want.BACK, rollback_unlanded=True).outcome == "held"
    assert decide(READY, gone, Want.BACK, on_word=True).step is Step.DISCARD
    assert decide(READY, {**gone, "taken_back": True}, Want.BACK, on_word=True).step is Step.RESUME_ABORTED


def test_the_end_of_a_copy_is_accepted_by_word_alone():
    """`recover --forward`: the workload had done its work, so its source goes; nobody says that a copy runs."""
    ill = {**LANDED, "ill": True}
    assert decide(READY, ill, Want.FORWARD).outcome == "held"
    assert decide(READY, ill, Want.FORWARD, forward=True).step is Step.COMMIT
    got = decide({**READY, "released": True}, {**ill, "cleaned": True}, Want.FORWARD, forward=True)
    assert (got.outcome, got.owner, got.exit_code) == ("ended", Owner.NOBODY, Exit.ENDED)


# Both ends in memory


PERFORM = {
    Step.ASK_READY: lambda world: world.ask(world.source, world.source.cast("READY")),
    Step.PERMIT: lambda world: world.ask(world.target, world.target.decide("PERMIT")),
    Step.PERMIT_ON_WORD: lambda world: world.ask(world.target, world.target.decide("PERMIT")),
    Step.ABORT: lambda world: world.ask(world.target, world.target.decide("ABORT")),
    Step.COMMIT: lambda world: world.ask(world.source, world.source.release("kill")),
    Step.RESUME: lambda world: world.ask(world.source, world.source.release("resume")),
    Step.RESUME_ABORTED: lambda world: world.ask(world.source, world.source.release("resume", True)),
    Step.LOOK: lambda world: world.ask(world.target, world.target.look()),
    Step.RESUME_ON_WORD: lambda world: world.ask(world.source, world.source.release("resume", True)),
    Step.FILL: lambda world: world.ask(world.target, world.target.fill()),
    Step.DISCARD: lambda world: world.ask(world.target, world.discard()),
    Step.FINISH: lambda world: world.ask(world.target, world.target.finish()),
    Step.END_LOST_SOURCE: lambda world: world.ask(world.source, world.source.settle_lost("kill")),
    Step.THAW_LOST_SOURCE: lambda world: world.ask(world.source, world.source.settle_lost("thaw")),
    Step.END_LOST_TARGET: lambda world: world.ask(world.target, world.target.settle_lost("kill")),
}
WHOLE = ("held", "landing", "frozen", "running")
CLOSED = ("moved", "rolled-back", "ended")


def test_every_step_is_in_the_model():
    assert set(PERFORM) == set(Step), "a new step needs its effects in fakes.py and its row here"


def test_the_model_tells_the_facts_that_the_helper_tells(monkeypatch, tmp_path):
    from reberth.node.runs import run
    from reberth.node.runs.source import Source
    from reberth.node.runs.target import Target

    monkeypatch.setattr(run, "STATE", str(tmp_path / "s"))
    real = Source(run.Run.open("r1", "source", "x/1")), Target(run.Run.open("r2", "target", "x/2"))
    for end, fake in zip(real, (FakeSource(), FakeTarget()), strict=True):
        assert fake.facts().keys() <= end.facts().keys()
        read = {k for k in end.facts() if k in fake.facts()}
        assert read >= {"role", "ended", "holding"}


class World:
    """Both nodes, a controller, and the faults that are still to come."""

    def __init__(self, faults: list[tuple[str, int]], rollback: bool, lazy: bool = False, line: bool = False) -> None:
        self.source, self.target = FakeSource(), FakeTarget(lazy)
        self.faults, self.line = list(faults), line
        self.said: dict[str, bool] = {"rollback_unlanded": rollback}
        self.cut_at: int | None = None
        self.steps: list[Step] = []
        self.told: dict[str, str] = {}
        self.strict = True  # a copy must be recoverable, whatever comes
        self.deceived = False  # a word was typed that is not true: two may run
        self.target.hears = lambda: self.source.vote if self.line and self.source.helper else None
        for end in (self.source, self.target):
            end.changed = self.check
            end.opened = True

    def check(self) -> None:
        """I1 and I2 after each single effect."""
        running = [name for name, runs in (("source", self.source.running), ("copy", self.copy_runs())) if runs]
        assert len(running) < 2 or self.deceived, (self.source.__dict__, self.target.__dict__)
        accepted = self.said.get("forward")
        ended = self.target.copy == "dead" and (self.target.has("looked") or accepted)  # after it was seen to live
        whole = self.source.tasks or ended or self.target.copy in WHOLE
        assert whole or not self.strict, (self.source.__dict__, self.target.__dict__)

        seen = self.target.has("looked") or accepted or self.target.rebooted or self.target.wiped
        assert self.source.tasks or self.source.rebooted or seen, "the source went before its copy was seen to live"

    def copy_runs(self) -> bool:
        return self.target.copy == "running"

    def strike(self) -> None:
        """The next fault, between two steps of the controller."""
        kind, depth = self.faults.pop(0) if self.faults else ("nothing", 0)
        ends = {"source": self.source, "target": self.target}
        what, _, where = kind.partition(" ")
        end = ends.get(where)
        self._excuse(what, where)
        if what == "kill" and end:
            end.die()
        elif what == "restart" and end:
            end.reboot()
        elif what == "wipe" and where == "target":
            self.target.wipe(depth % 2 == 0)
        elif what == "wipe" and end:
            end.wipe()
        elif what == "cut" and end:
            end.reachable = False
        elif what == "silence" and end and end.helper:
            end.reachable = False
            self.alone(end)
        elif what == "heal":
            self.source.reachable = self.target.reachable = True
        elif what == "time":
            self.source.finish_half_done()
            self.target.finish_half_done()
        elif what == "memory":
            self.target.short = True
        elif what == "tool":
            self.target.end_tool()
        elif what == "die":
            self.target.end_copy()
        elif what == "starve":
            self.target.feeder = self.target.feeder and self.target.has("filled")
        elif what == "stop":
            self.cut_at = depth
        elif what == "controller":
            self.alone(self.source)
            self.alone(self.target)
        self.check()

    def _excuse(self, what: str, where: str) -> None:
        """A fault after which no copy need be left: nobody could keep one, or somebody has given it up before."""
        source, target = self.source, self.target
        fed = target.feeder or target.has("filled") or not target.lazy
        open_ = not target.wiped and target.verdict != "ABORT" and source.vote != "RESUME"
        kept = target.copy in WHOLE and target.tool and fed and open_
        if (what, where) == ("restart", "source"):  # a workload that runs ends with its node, as every program does
            self.strict = self.strict and bool(kept and not source.running)
        elif (not source.tasks or self._goes()) and (where == "target" or what in ("tool", "memory", "starve", "die")):
            self.strict = False

    def _goes(self) -> bool:
        """Whether the source is being given up this moment: what was asked of it is carried out whatever comes."""
        return bool(self.source.half_done and Step.COMMIT in self.steps)

    def alone(self, end: Any) -> None:
        if end.helper:
            end.finish_half_done()
            try:
                end.run(end.lost())
            except RefusedByEndError:
                self.check()

    def ask(self, end: Any, effects: Any) -> None:
        """One operation; ConnectionError when its answer does not come, whatever was done of it."""
        if not end.reachable or not (end.helper or end.wiped):
            raise ConnectionError
        end.finish_half_done()
        most, self.cut_at = (1000 if self.cut_at is None else self.cut_at), None
        if not end.run(effects, most) or most < 1000:
            raise ConnectionError

    def discard(self) -> Any:
        if self.said.get("on_word") or self.said.get("target_is_gone") or self.source.has("resumed"):
            self.target.note("note-given-up")
        return self.target.discard()

    def look(self) -> tuple[Any, Any]:
        facts: list[Any] = []
        for name, end in (("source", self.source), ("target", self.target)):
            if end.reachable and end.wiped:
                facts.append(self._told(name) or end.facts_when_lost())
                continue
            if end.reachable:
                end.adopt()
            facts.append(end.facts() if end.reachable else self._told(name))
        return facts[0], facts[1]

    def _told(self, name: str) -> dict[str, Any] | None:
        """As `reberth.run.opened.told_facts`: what this controller has written into the end's journal."""
        outcome = self.told.get(name, "")
        moved = outcome == "moved"
        if not outcome:
            return None
        if name == "source":
            facts = {"released": moved, "resumed": not moved, "gone": outcome == "ended", "vote": None}
        else:
            facts = {
                "landed": moved,
                "running_ns": 1,
                "cleaned": True,
                "filled": True,
                "taken_back": not moved,
                "tasks": 1,
            }
            facts["verdict"] = "PERMIT" if moved else "ABORT"
        return {"role": name, "ended": outcome, **facts}

    def settle(self, want: Want) -> Decision:
        """The engine's loop; a step that fails three times ends it."""
        failures: dict[Step, int] = {}
        for _ in range(40):
            self.strike()
            woken = (Step.RESUME_ON_WORD, Step.THAW_LOST_SOURCE, Step.RESUME_ABORTED)
            ready = Step.PERMIT in self.steps and not any(step in self.steps for step in woken)
            got = decide(*self.look(), want, ready=ready, **self.said)
            if got.step is None:
                self._close(got)
                return got
            if failures.get(got.step, 0) >= 3:
                return Decision(None, f"{got.step} does not succeed", "held", Owner.NOBODY, Exit.HELD)
            self.steps.append(got.step)
            try:
                PERFORM[got.step](self)
            except (ConnectionError, RefusedByEndError):
                failures[got.step] = failures.get(got.step, 0) + 1
                want = Want.BACK
        raise AssertionError("no end within 40 steps")

    def _close(self, got: Decision) -> None:
        """A run that is over is told to each end that answers."""
        if got.outcome in CLOSED and got.exit_code is not Exit.CLEANUP_PENDING:
            for name, end in (("source", self.source), ("target", self.target)):
                if end.reachable and not end.wiped:
                    end.end(got.outcome)
                    self.told[name] = got.outcome

    def migrate(self) -> Decision:
        """All phases, then the end; a fault in a phase turns it back."""
        want = Want.FORWARD
        for end, phase in ((self.source, self.source.dump), (self.target, self.target.restore)):
            try:
                self.strike()
                self.ask(end, phase())
            except (ConnectionError, RefusedByEndError):
                want = Want.BACK
                break
        return self.settle(want)


FAULTS = ["nothing"] * 3 + ["heal", "time", "controller", "stop", "stop", "starve", "tool", "die"]
FAULTS += [f"{what} {where}" for what in ("kill", "cut", "silence") for where in ("source", "target")]
REBOOTS = ["restart source", "restart target"]
LOSSES = ["restart source"] * 3 + ["restart target", "wipe source", "wipe target", "memory"]


def troubles(kinds: list[str]) -> st.SearchStrategy[list[tuple[str, int]]]:
    """A run that goes well for a while, then faults in a row."""
    faults = st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 6)), max_size=7)
    return st.builds(lambda quiet, then: [("nothing", 0)] * quiet + then, st.integers(0, 7), faults)


def tells_the_truth(world: World, got: Decision) -> None:
    """The named owner runs and the other one does not; held means that nobody can be lost."""
    if got.owner is Owner.SOURCE:
        assert world.source.running and not world.copy_runs()
    if got.owner is Owner.TARGET and not world.target.rebooted:
        assert not world.source.running
        assert world.target.has("landed")
        assert world.copy_runs() or got.exit_code is not Exit.DONE or world.target.has("looked")
    if got.outcome == "ended":
        assert not world.source.tasks and not world.copy_runs()


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    troubles(FAULTS),
    st.booleans(),
    st.booleans(),
    st.sampled_from(Want),
)
def test_two_nodes_under_random_faults(faults, rollback, lazy, how):
    world = World(faults, rollback, lazy)
    tells_the_truth(world, world.migrate())
    world.faults = []
    world.source.reachable = world.target.reachable = True
    world.source.finish_half_done()
    world.target.finish_half_done()
    world.said["forward"] = how is Want.FORWARD
    got = world.settle(how)  # `recover`, when all can be reached again
    tells_the_truth(world, got)
    if got.outcome == "ended":
        assert world.said["forward"] and world.target.has("look-failed")
        return
    failed = any(world.target.has(event) for event in ("landing-failed", "fill-failed", "look-failed"))
    assert got.outcome in ("moved", "rolled-back") or (got.outcome == "held" and failed)
    if got.outcome == "held":
        assert world.source.tasks and world.source.frozen
        assert world.target.copy in ("none", "dead") or world.target.has("fill-failed")
        world.said = {"on_word": True}
        assert world.settle(Want.BACK).owner is Owner.SOURCE
        assert world.source.running


@pytest.mark.slow
@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    troubles(FAULTS + REBOOTS),
    st.booleans(),
    st.booleans(),
    st.sampled_from(Want),
)
def test_two_nodes_with_restarts(faults, rollback, lazy, how):
    world = World(faults, rollback, lazy)
    tells_the_truth(world, world.migrate())
    world.faults = []
    world.source.reachable = world.target.reachable = True
    world.source.finish_half_done()
    world.target.finish_half_done()
    got = world.settle(how)
    tells_the_truth(world, got)
    if got.outcome == "held" and world.source.tasks:  # no restart of the target holds a source for ever
        world.said["on_word"] = True
        assert world.settle(Want.BACK).owner is Owner.SOURCE
        assert world.source.running and not world.copy_runs()


@pytest.mark.parametrize("lazy", BOOLS)
def test_a_copy_that_dies_at_once_takes_no_source_with_it(lazy):
    """Its source is held, whatever killed the copy, until a word tells whether its work was done."""
    world = World([("nothing", 0)] * 4 + [("die", 0)], False, lazy)
    assert world.migrate().outcome == "held"
    assert world.source.tasks and world.source.frozen
    assert world.settle(Want.BACK).outcome == "held"
    world.said["on_word"] = True
    assert world.settle(Want.BACK).outcome == "rolled-back" and world.source.running


def test_a_copy_that_dies_after_the_look_has_moved():
    world = World([("nothing", 0)] * 5 + [("die", 0)], False)
    assert world.migrate().outcome == "moved"
    assert not world.source.tasks


def test_without_a_fault_it_moves_in_five_steps():
    world = World([], False)
    assert world.migrate().outcome == "moved"
    assert world.copy_runs() and not world.source.tasks
    assert world.target.has("cleaned")
