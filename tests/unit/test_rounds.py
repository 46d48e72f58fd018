"""When the rounds stop: tables, since the rule is pure."""

from __future__ import annotations

import pytest

from reberth.run import rounds as r
from reberth_hooks import Iteration, Mode, Options, Round

PAGE = 4096
GIGABIT = 117_000_000  # bytes per second


def pages(index: int, written: int, skipped: int = 0, *, seconds: float = 1.0, frozen_us: int = 0) -> Iteration:
    return Iteration(index, written + skipped, written, skipped, 0, written * PAGE, seconds, frozen_us)


def run(mode: Mode, options: Options, costs: list[Iteration]) -> tuple[list[Round], str]:
    """Feed these costs to the rounds as a caller would; gives the rounds and why they stopped."""
    history: list[Iteration] = []
    seen = []
    for step in r.rounds(mode, options, history):
        seen.append(step)
        if not step.final:
            history.append(costs[len(history)])
    return seen, r.why_stop(options, history)


@pytest.mark.parametrize(
    ("mode", "want"),
    [
        (Mode.STOP_AND_COPY, [Round(0)]),
        (Mode.POST_COPY, [Round(0, lazy=True)]),
        (Mode.PRE_COPY, [Round(0, final=False), Round(1, final=False), Round(2)]),
        (Mode.HYBRID, [Round(0, final=False), Round(1, final=False), Round(2, lazy=True)]),
    ],
)
def test_each_mode_ends_in_its_own_final_round(mode, want):
    seen, _ = run(mode, Options(policy="fixed", iterations=2), [pages(0, 100), pages(1, 100)])
    assert seen == want
    assert [step.final for step in seen].count(True) == 1


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.NEAR_LIVE])
def test_a_mode_without_rounds_of_ours_is_refused(mode):
    with pytest.raises(ValueError, match=f"mode {mode} has no rounds"):
        next(r.rounds(mode, Options(), []))


def test_a_caller_that_forgets_the_history_is_stopped():
    steps = r.rounds(Mode.PRE_COPY, Options(), [])
    next(steps)
    with pytest.raises(ValueError, match="1 rounds were run but 0 are in the history"):
        next(steps)


# LXD's percents: 100 - floor(100 * written / (written + skipped_parent)); the last round when it is above the goal.
@pytest.mark.parametrize(
    ("written", "skipped", "percent"),
    [
        (100, 0, 0),
        (0, 100, 100),
        (30, 70, 70),
        (29, 71, 71),
        (301, 699, 70),  # 30.1 % written: floored to 30
        (299, 701, 71),
        (1, 999_999, 100),
        (999_999, 1, 1),
        (0, 0, 0),
    ],
)
def test_lxd_percents(written, skipped, percent):
    assert r.in_sync_percent(pages(0, written, skipped)) == percent


@pytest.mark.parametrize(
    ("goal", "second", "stops"),
    [
        (70, (30, 70), False),  # exactly the goal goes on
        (70, (29, 71), True),
        (69, (30, 70), True),
        (100, (0, 100), False),  # never reached
        (0, (100, 0), False),
        (0, (99, 1), True),
    ],
)
def test_lxd_stops_above_the_goal_only(goal, second, stops):
    options = Options(policy="lxd", goal=goal, iterations=3)
    seen, reason = run(Mode.PRE_COPY, options, [pages(0, 100), pages(1, *second), pages(2, 100)])
    assert (len(seen), reason) == ((3, "goal") if stops else (4, "iterations"))


def test_lxd_never_stops_after_the_first_full_round():
    seen, reason = run(Mode.PRE_COPY, Options(policy="lxd", goal=0, iterations=1), [pages(0, 100)])
    assert (len(seen), reason) == (2, "iterations")


@pytest.mark.parametrize("policy", ["fixed", "lxd", "downtime"])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_no_policy_exceeds_its_iterations(policy, iterations):
    slow = [pages(i, 1000, seconds=10.0 + i) for i in range(10)]
    seen, _ = run(Mode.PRE_COPY, Options(policy=policy, iterations=iterations, max_downtime_s=0.0), slow)
    assert len(seen) <= iterations + 1


# 256 MiB over 1 Gbit/s; what the next round carries is dirtied at `rate` while the one before it travels.
def simulate(rate_bytes_s: float, working_set_bytes: float, options: Options) -> tuple[list[float], str]:
    history: list[Iteration] = []
    amounts = []
    amount = 256.0 * 1024 * 1024
    for step in r.rounds(Mode.PRE_COPY, options, history):
        amounts.append(amount)
        if not step.final:
            seconds = amount / GIGABIT
            history.append(Iteration(step.index, bytes=int(amount), seconds=seconds))
            amount = min(rate_bytes_s * seconds, working_set_bytes)
    return amounts, r.why_stop(options, history)


@pytest.mark.parametrize(
    ("rate_mb_s", "working_set_mb", "max_downtime_s", "reason", "pre_dumps"),
    [
        (0, 64, 0.3, "nothing-dirty", 2),
        (1, 64, 0.3, "max-downtime", 2),
        (20, 256, 0.3, "max-downtime", 3),
        (20, 256, 0.01, "max-downtime", 4),
        (60, 256, 0.05, "max-downtime", 6),
        (60, 20, 0.001, "max-downtime", 9),
        (115, 60, 0.3, "gain", 3),  # the working set is the floor: more rounds would send it again
        (117, 256, 0.3, "gain", 2),  # as fast as the link
        (500, 256, 0.3, "gain", 2),
    ],
)
def test_downtime_policy_stops_for_the_right_reason(rate_mb_s, working_set_mb, max_downtime_s, reason, pre_dumps):
    options = Options(max_downtime_s=max_downtime_s)
    amounts, why = simulate(rate_mb_s * 1e6, working_set_mb * 1e6, options)
    assert (why, len(amounts) - 1) == (reason, pre_dumps)


def test_downtime_policy_keeps_what_it_promises():
    kept = 0
    for rate_mb_s in (1, 5, 20, 40, 60, 80, 100, 110):
        for working_set_mb in (2, 10, 20, 60, 120, 250):
            for max_downtime_s in (0.01, 0.05, 0.2, 0.3, 1.0):
                options = Options(max_downtime_s=max_downtime_s, iterations=30)
                amounts, why = simulate(rate_mb_s * 1e6, working_set_mb * 1e6, options)
                if why == "max-downtime":
                    kept += 1
                    assert amounts[-1] / GIGABIT <= max_downtime_s * 1.01
    assert kept > 150


def test_a_growing_round_is_the_last():
    seen, reason = run(Mode.PRE_COPY, Options(max_downtime_s=0), [pages(0, 1000), pages(1, 500), pages(2, 560)])
    assert (len(seen), reason) == (4, "growth")


@pytest.mark.parametrize(("third", "reason"), [(560, "growth"), (549, "gain"), (476, "gain"), (474, "")])
def test_growth_and_gain_are_told_apart(third, reason):
    assert r.why_stop(Options(max_downtime_s=0), [pages(0, 1000), pages(1, 500), pages(2, third)]) == reason


@pytest.mark.parametrize(
    ("history", "seconds"),
    [
        ([], None),
        ([pages(0, 100)], None),
        ([pages(0, 100, seconds=0), pages(1, 10, seconds=0)], None),
        ([pages(0, 1000, seconds=10), pages(1, 100, seconds=1)], 1.0),  # one pair is not believed: as the last one
        ([pages(0, 1000, seconds=10), pages(1, 100, seconds=1), pages(2, 10, seconds=0.1)], 0.01),  # 10 pages/s
        ([pages(0, 1000, seconds=10), pages(1, 100, seconds=1, frozen_us=50_000)], 1.05),
    ],
)
def test_predicted_downtime(history, seconds):
    assert r.predict_downtime_s(history) == (None if seconds is None else pytest.approx(seconds))


def test_pages_are_counted_when_bytes_are_not_known():
    history = [Iteration(0, pages_written=1000, seconds=10), Iteration(1, pages_written=100, seconds=1)]
    assert r.predict_downtime_s(history) == pytest.approx(1.0)


def test_a_wish_makes_the_next_round_the_last_one():
    history, wishes = [], [""]
    walk = r.rounds(Mode.PRE_COPY, Options(policy="fixed", iterations=9), history, lambda: wishes[0])
    assert not next(walk).final
    history.append(Iteration(0, bytes=1 << 20, seconds=1.0))
    wishes[0] = "post-copy"
    assert list(walk) == [Round(1, final=True, lazy=True)]


def test_the_lxd_rule_goes_on_at_exactly_its_goal():
    """69 and 70 of 100 pages in sync: one more round; 71: it stops (LXD compares with >, and floors)."""
    for share, stops in ((69, False), (70, False), (71, True)):
        last = Iteration(1, pages_written=100 - share, pages_skipped_parent=share, bytes=1, seconds=1.0)
        assert (r.why_stop(Options(policy="lxd", goal=70), [last]) == "goal") is stops, share
