"""How often to pass over memory before the freeze; pure, the caller appends what each round cost to `history`.

stop-and-copy `[final]`, pre-copy `[pre x n, final]`, post-copy `[final lazy]`, hybrid `[pre x n, final lazy]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from reberth_hooks import Iteration, Mode, Options, Round

MIN_GAIN = 0.05  # a round that carried hardly less than the one before it: the next would not either
MAX_GROWTH = 0.10  # a round that grew by more than this: the workload writes faster than the link carries

_LAZY = {Mode.STOP_AND_COPY: False, Mode.PRE_COPY: False, Mode.POST_COPY: True, Mode.HYBRID: True}


def rounds(
    plan_mode: Mode, options: Options, history: Sequence[Iteration], wish: Callable[[], str] = str
) -> Iterator[Round]:
    """Yield the rounds, the final one last; ValueError for a mode that has no rounds of ours (auto, near-live).

    `wish` is asked before each: a mode that it answers makes the next round the final one, by that mode.
    """
    if plan_mode not in _LAZY:
        raise ValueError(f"mode {plan_mode} has no rounds")
    index = 0
    if plan_mode in (Mode.PRE_COPY, Mode.HYBRID):
        while not why_stop(options, history) and not wish():
            yield Round(index, final=False)
            index += 1
            if len(history) != index:
                raise ValueError(f"{index} rounds were run but {len(history)} are in the history")
    yield Round(index, final=True, lazy=_LAZY[Mode(wish() or plan_mode)])


def why_stop(options: Options, history: Sequence[Iteration]) -> str:
    """Return why the next round is the final one (the report's `stop_reason`); empty: one more pre-dump pays."""
    reason = _POLICIES[options.policy](options, history) if history else ""
    return reason or ("iterations" if len(history) >= options.iterations else "")


def in_sync_percent(last: Iteration) -> int:
    """LXD's measure of a round in whole percents; a round over nothing counts as 0 (LXD 5.0.2 divides by 0)."""
    total = last.pages_written + last.pages_skipped_parent
    return 100 - 100 * last.pages_written // total if total else 0


def predict_downtime_s(history: Sequence[Iteration]) -> float | None:
    """Seconds of a final round now, at the pace of all rounds; None before two timed rounds tell the dirty rate."""
    if len(history) < 2 or not _pace(history):
        return None
    return _next_amount(history) / _pace(history) + history[-1].frozen_us / 1e6


def _amount(last: Iteration) -> float:
    return float(last.bytes or last.pages_written)


def _pace(history: Sequence[Iteration]) -> float:
    seconds = sum(i.seconds for i in history)
    return sum(map(_amount, history)) / seconds if seconds > 0 else 0.0


def _next_amount(history: Sequence[Iteration]) -> float:
    """Return what the next round carries: a round's amount was dirtied while the one before it ran.

    One such pair does not tell a slow writer from a fast one within a small working set, so it is not believed.
    """
    rates = [_amount(new) / old.seconds for old, new in pairwise(history) if old.seconds > 0]
    last = history[-1]
    return min(max(rates) * last.seconds, max(map(_amount, history))) if len(rates) > 1 else _amount(last)


def _lxd(options: Options, history: Sequence[Iteration]) -> str:
    return "goal" if in_sync_percent(history[-1]) > options.goal else ""


def _downtime(options: Options, history: Sequence[Iteration]) -> str:
    last = history[-1]
    if not _amount(last):
        return "nothing-dirty"
    predicted = predict_downtime_s(history)
    if predicted is None:  # the first round carries everything and is never judged
        return ""
    if predicted <= options.max_downtime_s:
        return "max-downtime"
    before = _amount(history[-2])
    if _amount(last) > (1 + MAX_GROWTH) * before:
        return "growth"
    return "gain" if _amount(last) > (1 - MIN_GAIN) * before else ""


_Policy = Callable[[Options, Sequence[Iteration]], str]
_POLICIES: dict[str, _Policy] = {"fixed": lambda options, history: "", "lxd": _lxd, "downtime": _downtime}
