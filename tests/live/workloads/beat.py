"""The pulse of a workload: one beat per millisecond, and a memory of the longest silences."""

from __future__ import annotations

import time
from typing import Any

KEPT_GAPS = 5
LEAST_GAP_S = 0.005


class Beat:
    """Counts beats and keeps the longest gaps between two of them, by CLOCK_REALTIME.

    CLOCK_MONOTONIC cannot tell: criu restores into a time namespace in which it goes on from where it was dumped, so
    a silence of 7.0 s showed as 4.3 s (criu 4.2.1). It is given beside as ``monotonic_seconds``.
    """

    def __init__(self) -> None:
        self.beats = 0
        self._gaps: list[tuple[float, float, float, float]] = []
        self._monotonic_s = time.monotonic()
        self._realtime_s = time.time()

    def mark(self) -> float:
        """One sign of life; returns the seconds since the last one."""
        monotonic_s, realtime_s = time.monotonic(), time.time()
        gap_s = realtime_s - self._realtime_s
        if gap_s > LEAST_GAP_S:
            self._gaps.append((gap_s, self._realtime_s, realtime_s, monotonic_s - self._monotonic_s))
            self._gaps.sort(reverse=True)
            del self._gaps[KEPT_GAPS:]
        self.beats += 1
        self._monotonic_s, self._realtime_s = monotonic_s, realtime_s
        return gap_s

    def forgive(self, busy_s: float) -> None:
        """Work of this length was done on purpose (a verification): it is no silence, anything longer is."""
        self._monotonic_s += busy_s
        self._realtime_s += busy_s

    def gaps(self) -> list[dict[str, Any]]:
        """The longest silences, longest first."""
        return [
            {"seconds": round(gap_s, 6), "begin": begin_s, "end": end_s, "monotonic_seconds": round(monotonic_s, 6)}
            for gap_s, begin_s, end_s, monotonic_s in self._gaps
        ]

    def forget(self) -> None:
        """Start a new record, as before a second move."""
        self._gaps = []
