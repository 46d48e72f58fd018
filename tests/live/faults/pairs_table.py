"""Schedules of two faults at once: what is done in which order, and how it may end. `pairs.py` runs them.

Each schedule begins with a move of a process whose controller stops at a point (a phase or step of its journal). The
words of `does` are methods of `pairs.Two`; `ends` are the exit codes of the move, empty when its controller is killed;
`last` are those of the last `recover`, empty when there is none.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SOURCE, BOTH = (0,), (0, 1)  # who ran, in order: the source alone, or the source and then the copy


@dataclass(frozen=True)
class Pair:
    """One schedule, and what may come of it."""

    name: str
    at: str
    does: tuple[str, ...]
    ran: frozenset[tuple[int, ...]]
    outcome: frozenset[str]
    ends: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()
    cheap: bool = False  # below ten seconds on a quiet machine


def pair(
    name: str,
    at: str,
    does: str,
    ran: tuple[int, ...] | list[tuple[int, ...]],
    outcome: str,
    *,
    ends: Sequence[int] = (),
    last: Sequence[int] = (),
    cheap: bool = False,
) -> Pair:
    """Return a schedule; `does` and `outcome` are words with spaces between them."""
    turns = frozenset(ran if isinstance(ran, list) else [ran])
    words = frozenset(outcome.split())
    return Pair(
        f"{name}-{at}",
        at,
        tuple(does.split()),
        turns,
        words,
        frozenset(ends),
        frozenset(last),
        cheap=cheap,
    )


def _rows() -> Iterator[Pair]:
    back, moved = "rolled-back", "moved"
    lost = "kill_helpers kill_controller recover recover_back_if_open"
    yield pair(
        "link-and-controller", "permit", "cut_target kill_controller recover_back mend recover", SOURCE, back, last=[0]
    )
    yield pair(
        "link-and-controller",
        "commit",
        "cut_target kill_controller pause recover_back mend recover_back",
        BOTH,
        moved,
        last=[0],
    )
    yield pair("helpers-and-controller", "ask-ready", lost, SOURCE, back, last=[0], cheap=True)
    yield pair("helpers-and-controller", "permit", lost, SOURCE, back, last=[0], cheap=True)
    yield pair("helpers-and-controller", "commit", lost, BOTH, moved, last=[0], cheap=True)
    yield pair("both-helpers", "restore", "kill_helpers go_on", SOURCE, back, ends=[20], cheap=True)
    yield pair("both-helpers", "ask-ready", "kill_helpers go_on", SOURCE, back, ends=[20], cheap=True)
    yield pair(
        "both-words", "permit", "kill_controller both_words recover", [SOURCE, BOTH], f"{back} {moved}", last=[0]
    )
    yield pair("both-words", "commit", "kill_controller both_words recover", BOTH, moved, last=[0])
    yield pair("operator-kills-the-source", "permit", "kill_workload go_on", BOTH, moved, ends=[0], cheap=True)
    # The copy may have been given up before, or may land: both are honest, and no two run.
    held_dead = "cut_target go_on kill_workload pause mend recover"
    yield pair("held-then-killed", "permit", held_dead, [SOURCE, BOTH], f"ended {moved}", ends=[40], last=[0, 21])
    sleeps = "stop_target_helper go_on wake recover_if_open"
    yield pair("target-helper-sleeps", "restore", sleeps, SOURCE, back, ends=[20])
    yield pair(
        "target-helper-sleeps", "ask-ready", sleeps, [SOURCE, BOTH], f"{back} {moved}", ends=[0, 20, 40], last=[0]
    )
    yield pair("target-helper-sleeps", "permit", sleeps, [SOURCE, BOTH], f"{back} {moved}", ends=[0, 20, 40], last=[0])
    yield pair("target-helper-sleeps", "commit", sleeps, BOTH, moved, ends=[0, 41], last=[0])
    tool = "stop_target_criu go_on wake recover_if_open"
    for at in ("ask-ready", "permit", "commit"):
        yield pair("target-criu-sleeps", at, tool, BOTH, moved, ends=[0])
    # While it stands at this point the first controller is silent, and its nodes go back when that takes too long.
    yield pair("two-controllers", "restore", "second_controller go_on", [SOURCE, BOTH], f"{back} {moved}", ends=[0, 20])
    yield pair(
        "thawed-by-hand", "commit", "cut_target go_on thaw_source mend recover", BOTH, moved, ends=[41], last=[0]
    )
    for at in ("final-dump", "restore", "ask-ready", "permit", "commit"):
        yield pair(
            "source-state-full",
            at,
            "fill_source go_on recover_if_open",
            [SOURCE, BOTH],
            f"{back} {moved}",
            ends=[0, 20],
        )
    for at in ("restore", "ask-ready", "permit"):
        yield pair(
            "target-state-full",
            at,
            "fill_target go_on recover_if_open",
            [SOURCE, BOTH],
            f"{back} {moved}",
            ends=[0, 20],
        )
    power = "power_source go_on start_source recover recover_forward_if_open"
    yield pair("source-power", "restore", power, [SOURCE, BOTH], f"{moved} ended", ends=[40, 41], last=[0, 21])
    yield pair("source-power", "ask-ready", power, BOTH, moved, ends=[40, 41], last=[0])
    yield pair("source-power", "permit", power, BOTH, moved, ends=[41], last=[0])
    yield pair("source-power", "commit", power, BOTH, moved, ends=[41], last=[0])
    both = "power_source kill_controller pause start_source recover recover_forward_if_open"
    for at in ("ask-ready", "permit"):
        yield pair("source-and-controller-power", at, both, BOTH, moved, last=[0])
    yield pair("source-and-controller-power", "commit", both, BOTH, moved, last=[0])
    gone = "power_target go_on recover recover_target_is_gone start_target"
    yield pair("target-gone-for-good", "permit", gone, SOURCE, back, ends=[40], last=[0])
    wiped = "wipe_target kill_controller pause recover recover_target_is_gone"
    yield pair("target-state-wiped", "commit", wiped, [SOURCE, BOTH], f"{back} {moved} held", last=[0, 40])
    empty = "cut_target go_on kill_source_helper wipe_source mend pause recover"
    yield pair("source-state-wiped", "permit", empty, SOURCE, "held", ends=[40], last=[40])


PAIRS = list(_rows())


def sample(count: int, seed: int) -> list[Pair]:
    """Return some cheap ones, by chance from the seed."""
    cheap = sorted((one for one in PAIRS if one.cheap), key=lambda one: one.name)
    return random.Random(seed).sample(cheap, count)
