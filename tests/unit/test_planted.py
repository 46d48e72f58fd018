"""The model of two nodes is no rubber stamp: each rule of the protocol that is broken in it is found by its faults.

The same is done to the real thing in tests/live/test_faults.py.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import test_protocol
from fakes import FakeSource, FakeTarget
from test_protocol import FAULTS, World, tells_the_truth

from reberth.run.decide import Step, Want, decide

TRIES = 4000


class Unfenced(FakeSource):
    """When its helper is killed the tasks wake, as CRIU leaves them."""

    def die(self):
        super().die()
        self.frozen = False


class Eager(FakeSource):
    """It runs again after READY without the target's word."""

    def _resume(self, aborted):
        self.vote = "RESUME"
        yield from super()._resume(aborted)

    def lost(self):
        yield from self._resume(False)


class Changeable(FakeTarget):
    """The last verdict counts: a second PERMIT is as good as the first, a late ABORT too."""

    def decide(self, value):
        self.verdict = value
        yield
        yield from self._land() if self.verdict == "PERMIT" else self._take_back()

    def _take_back(self):
        self.copy = "none"
        yield
        yield from super()._take_back()


class Doubled(FakeTarget):
    """It builds a second copy when it is permitted once more."""

    def decide(self, value):
        if value == "PERMIT" and self.copy == "none":
            self.verdict, self.copy = "PERMIT", "running"
            self.note("landed")
        yield from super().decide(value)


def too_early(source, target, want, **words):
    """PERMIT without the source's vote."""
    got = decide(source, target, want, **words)
    return replace(got, step=Step.PERMIT) if got.step is Step.ASK_READY else got


def impatient(source, target, want, **words):
    """PERMIT again where the target has said ABORT."""
    got = decide(source, target, want, **words)
    again = got.step is Step.RESUME_ABORTED and want is Want.BACK
    return replace(got, step=Step.PERMIT) if again and not target.get("landed") else got


def broken(source=FakeSource, target=FakeTarget, decided=decide):
    """Whether some run of random faults breaks a promise."""
    for seed in range(TRIES):
        chance = random.Random(seed)
        faults = [("nothing", 0)] * chance.randrange(8)
        faults += [(chance.choice(FAULTS), chance.randrange(7)) for _ in range(chance.randrange(8))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(test_protocol, "FakeSource", source)
            patch.setattr(test_protocol, "FakeTarget", target)
            patch.setattr(test_protocol, "decide", decided)
            world = World(faults, chance.random() < 0.5, chance.random() < 0.5)
            try:
                tells_the_truth(world, world.migrate())
                world.faults = []
                world.source.reachable = world.target.reachable = True
                tells_the_truth(world, world.settle(chance.choice(list(Want))))
            except AssertionError:
                return True
    return False


def test_as_it_is_nothing_breaks():
    assert not broken()


@pytest.mark.parametrize(
    "planted",
    [
        {"source": Unfenced},
        {"source": Eager},
        {"target": Changeable},
        {"target": Doubled, "decided": impatient},
        {"decided": too_early},
    ],
    ids=[
        "an-unfenced-source",
        "a-resumed-source-after-ready",
        "a-second-verdict",
        "a-second-permit",
        "an-early-permit",
    ],
)
def test_a_planted_violation_is_found(planted):
    assert broken(**planted)
