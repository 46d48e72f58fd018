"""What a move will cost in each mode: a small model of few figures, all of which the plan prints.

Symbols of docs/benchmark.md: memory M, link B, dirty rate D, written set W. After t seconds W (1 - exp(-D t / W)) bytes
are dirty. The constants are what this project measured on its lab; a prediction is a range, not a figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reberth.plan.compression import carried_bytes_s, link_bytes_s
from reberth_hooks import Mode, Options

LINK_BYTES_S = 110e6  # where nothing was measured: a gigabit link
DUMP_BYTES_S = 2.5e9  # criu writes its images
COMPARE_BYTES_S = 1.1e9  # each page with the copy that went ahead (docs/decisions/010)
RESTORE_BYTES_S = 1.1e9
LAZY_FROM_BYTES, LAZY_RESTORE_S = 64 << 20, 0.02
FIXED_S = {"criu": 0.1, "runc": 0.25}  # freeze, dump and restore of what is not memory
SETUP_S = 0.6
ROUND_S = 0.15
COPY_BYTES_S = 3e9  # `pace` of the lab's nodes, from which the figures above are; a slower node needs longer for all
NOISE = 2.0  # less than this is the machine's other work
LOW, HIGH = 0.6, 1.7
MIN_GAIN = 0.05


@dataclass(frozen=True, slots=True)
class Prediction:
    """One mode: seconds of downtime with its range, seconds until the source is free, bytes, rounds before the last."""

    mode: str
    downtime_s: float
    total_s: float
    bytes: int
    rounds: int = 0

    @property
    def low_s(self) -> float:
        """Return the short end of the downtime."""
        return LOW * self.downtime_s

    @property
    def high_s(self) -> float:
        """Return the long end."""
        return HIGH * self.downtime_s

    def document(self) -> dict[str, Any]:
        """As JSON."""
        spread = {"downtime_low_s": self.low_s, "downtime_high_s": self.high_s}
        rest = {"total_s": self.total_s, "bytes": self.bytes, "rounds": self.rounds}
        return {"mode": self.mode, "downtime_s": self.downtime_s, **spread, **rest}


def dirty_bytes(seconds: float, rate_bytes_s: float, set_bytes: float, all_bytes: float = math.inf) -> float:
    """Distinct bytes written in a time; all memory as a set was seen to be written straight through, as a log is."""
    if rate_bytes_s <= 0 or set_bytes <= 0:
        return 0.0
    if set_bytes >= all_bytes:
        return min(rate_bytes_s * seconds, set_bytes)
    return set_bytes * (1 - math.exp(-rate_bytes_s * seconds / set_bytes))


def slowness(measured: Mapping[str, Any]) -> float:
    """Return how many times longer the slower node needs than those of the lab.

    1 for one that is as fast, or faster.
    """
    found = COPY_BYTES_S / float(measured.get("copy_bytes_s") or COPY_BYTES_S)
    return found if found > NOISE else 1.0


def predict(mode: Mode, backend: str, memory_bytes: float, measured: Mapping[str, Any], options: Options) -> Prediction:
    """One mode; `measured` may lack the link and the dirty rate (`reberth.plan.measure`); bytes are those of memory."""
    link = link_bytes_s(options, measured, LINK_BYTES_S)
    trees = carried_bytes_s(link, measured)
    slow = slowness(measured)
    fixed_s = slow * FIXED_S.get(backend, FIXED_S["runc"])
    dump, restore = DUMP_BYTES_S / slow, RESTORE_BYTES_S / slow
    sent, last, rounds, spent_s = 0.0, float(memory_bytes), 0, 0.0
    if mode in (Mode.PRE_COPY, Mode.HYBRID):
        sent, last, rounds, spent_s = _rounds(memory_bytes, trees, measured, options, fixed_s)
    if mode in (Mode.POST_COPY, Mode.HYBRID):
        downtime_s = fixed_s + last / (4 * dump)
        pages = link_bytes_s(options, measured, link, "pages_link_bytes_s")
        total_s = slow * SETUP_S + spent_s + downtime_s + 1.1 * last / pages
    else:
        lazy = options.lazy_restore and memory_bytes >= LAZY_FROM_BYTES
        restore_s = slow * LAZY_RESTORE_S if lazy else memory_bytes / restore
        if mode is Mode.STOP_AND_COPY and options.memory_ahead:
            fixed_s += last / dump + slow * last / COMPARE_BYTES_S
            sent, last, spent_s = _ahead(last, trees, measured)
        downtime_s = fixed_s + last / dump + last / trees + restore_s
        total_s = slow * SETUP_S + spent_s + downtime_s
    return Prediction(mode.value, downtime_s, total_s, int(sent + last), rounds)


def _resident(measured: Mapping[str, Any]) -> float:
    return float(measured.get("resident_bytes") or math.inf)


def _ahead(memory_bytes: float, link: float, measured: Mapping[str, Any]) -> tuple[float, float, float]:
    """Two passes over memory while it runs: bytes sent in them, bytes that changed since, and their seconds."""
    rate, size = float(measured.get("dirty_bytes_s") or 0), float(measured.get("set_bytes") or memory_bytes)
    all_bytes = _resident(measured)
    first_s = memory_bytes / link + ROUND_S
    again = dirty_bytes(first_s, rate, size, all_bytes)
    second_s = again / link + ROUND_S
    return memory_bytes + again, dirty_bytes(second_s, rate, size, all_bytes), first_s + second_s


def _rounds(
    memory_bytes: float, link: float, measured: Mapping[str, Any], options: Options, fixed_s: float
) -> tuple[float, float, int, float]:
    """Bytes sent in the rounds, bytes left for the last one, how many rounds, and their seconds."""
    tracked = "tracked_" if "tracked_bytes_s" in measured else ""
    rate = float(measured.get(f"{tracked or 'dirty_'}bytes_s") or 0)
    size = float(measured.get(f"{tracked}set_bytes") or memory_bytes)
    all_bytes = _resident(measured)
    sent, amount, spent_s, rounds = 0.0, float(memory_bytes), 0.0, 0
    while rounds < options.iterations:
        seconds = amount / link + ROUND_S
        sent, spent_s, rounds = sent + amount, spent_s + seconds, rounds + 1
        left = dirty_bytes(seconds, rate, size, all_bytes)
        gain = amount - left
        amount = left
        if options.policy == "downtime" and (
            fixed_s + left / link <= options.max_downtime_s or gain < MIN_GAIN * amount
        ):
            break
    return sent, amount, rounds, spent_s


def table(
    modes: Sequence[Mode], backend: str, details: Mapping[str, Any], measured: Mapping[str, Any], options: Options
) -> dict[str, Prediction]:
    """Return all of these modes; empty when the size of the workload is not known."""
    size = details.get("memory_bytes")
    if size is None:
        return {}
    return {mode.value: predict(mode, backend, float(size), measured, options) for mode in modes}
