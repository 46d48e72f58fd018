"""A process that lives by clocks that count from the node's start, which on another node is another moment."""

from __future__ import annotations

import threading
import time

from workloads import kernel
from workloads.base import Checks, Workload, wait_until

CLOCKS = {"CLOCK_MONOTONIC": time.CLOCK_MONOTONIC, "CLOCK_BOOTTIME": time.CLOCK_BOOTTIME}
LONG_S = 3600.0
NAP_S, NAP_LIMIT_S = 1.0, 5.0
# Between two readings of a clock, and while a tree is dumped, an emulated node may take seconds; nodes that were
# started minutes apart are farther away than this.
SEAM_S = 30.0


class Clocks(Workload):
    """Its clocks go on: never back, never ahead of the time of day; a long timer is due when it was, naps end."""

    kind = "clocks"
    plants = ("back", "ahead", "timer", "nap")

    def setup(self) -> None:
        """Start the timer and the thread that naps."""
        self.wall_s = time.time()
        self.seen_s = {name: time.clock_gettime(clock) for name, clock in CLOCKS.items()}
        self.wrong: dict[str, str] = {}
        self.timer = kernel.timerfd(0, LONG_S)
        self.due_s = time.monotonic() + LONG_S
        self.naps = 0
        self.nap_s = NAP_S
        threading.Thread(target=self._nap, daemon=True).start()

    def step(self, elapsed_s: float) -> float:
        """Read the clocks."""
        now_s = {name: time.clock_gettime(clock) for name, clock in CLOCKS.items()}
        wall_s = time.time()
        for name, second_s in now_s.items():
            passed_s = second_s - self.seen_s[name]
            if passed_s < 0 or passed_s > wall_s - self.wall_s + SEAM_S:
                self.wrong[name] = f"{name} went on by {passed_s:.3f} s in {wall_s - self.wall_s:.3f} s"
        self.seen_s, self.wall_s = now_s, wall_s
        return 0.0

    def verify(self, checks: Checks) -> None:
        """Nothing was wrong with the clocks, the timer is due when it must be, and another nap ends."""
        for problem in self.wrong.values():
            checks.problems.append(problem)
        checks.count("clocks", len(CLOCKS))
        _, left_s = kernel.timerfd_get(self.timer)
        due_in_s = self.due_s - time.monotonic()
        good = left_s > 0 and abs(due_in_s - left_s) < SEAM_S
        checks.expect(good, f"the timer is due in {left_s:.1f} s, not {due_in_s:.1f} s")
        before = self.naps
        checks.expect(wait_until(lambda: self.naps > before, NAP_LIMIT_S), "a nap does not end")
        checks.count("naps", self.naps)

    def plant(self, kind: str) -> None:
        """As if a clock had gone back or ahead, the timer were of another clock, or a nap had lost its end."""
        if kind in ("back", "ahead"):
            self.seen_s["CLOCK_MONOTONIC"] += 100.0 if kind == "back" else -100.0
        elif kind == "timer":
            kernel.timerfd_set(self.timer, 0, LONG_S - 2 * SEAM_S)
        elif kind == "nap":
            self.nap_s = LONG_S
            time.sleep(1.5 * NAP_S)  # the present one ends
        else:
            raise KeyError(kind)

    def _nap(self) -> None:
        while True:
            time.sleep(self.nap_s)
            self.naps += 1
