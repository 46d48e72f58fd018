"""How long a fill may go on without getting on: a daemon that waits, hangs or runs in a circle ends it.

Bytes alone are no progress: a daemon that asks for the same pages again and again moves them for ever. A page that came
for the first time is, and so is a process that has all of its own (its userfaultfd is closed then). A process that was
forked meanwhile gets the missing pages a second time, which may take as long as the first.
"""

from __future__ import annotations

import contextlib
import time

from reberth.node.errors import OpError
from reberth.node.pages import shared_table
from reberth.node.pages.prefetch import Prefetch

STALL_S = 60.0  # without a byte
CIRCLE_S = 300.0  # with bytes alone, and in addition as long as all pages take at this rate
CIRCLE_BYTES_PER_S = 32 << 20


class Patience:
    """What one fill has done when it was last looked at."""

    def __init__(self, pid: int, expected_bytes: int, flow: Prefetch | None) -> None:
        self.pid, self.flow, self.expected_bytes = pid, flow, expected_bytes
        self.circle_s = CIRCLE_S + expected_bytes / CIRCLE_BYTES_PER_S
        self.moved_s = self.got_on_s = time.monotonic()
        self._moved, self._new = -1, (-1, -1)

    def check(self) -> None:
        """Look once more; raises OpError `fill` when nothing has got on for too long."""
        now_s = time.monotonic()
        moved, new = self._look()
        if moved != self._moved:
            self._moved, self.moved_s = moved, now_s
        if new != self._new:
            self._new, self.got_on_s = new, now_s
        if self.flow is not None:
            self.moved_s = max(self.moved_s, self.flow.moved_s)
        if now_s - self.moved_s > STALL_S:
            hint = "is the link cut?" if self.flow else "is the disk of the images slow, or criu lazy-pages stopped?"
            raise OpError("fill", f"no page came for {STALL_S:g} s", hint=hint)
        if now_s - self.got_on_s > self.circle_s:
            text = f"criu lazy-pages moved the same pages again for {self.circle_s:.0f} s, and none was new"
            raise OpError("fill", text)

    def _look(self) -> tuple[int, tuple[int, int]]:
        """Bytes that were moved, and what is progress: pages that are new, and address spaces that miss some."""
        open_ = shared_table.count(self.pid)
        if self.flow is not None:
            return self.flow.bytes, (self.flow.pages, open_)
        read_bytes = self._read_bytes()
        return read_bytes, (min(read_bytes, self.expected_bytes), open_)

    def _read_bytes(self) -> int:
        """Return what the daemon has read so far, of images that lie here.

        Return its processor time where bytes are not counted.
        """
        gone = contextlib.suppress(OSError, ValueError, IndexError)
        with gone, open(f"/proc/{self.pid}/io", encoding="ascii") as file:
            return int(file.readline().split()[1])
        with gone, open(f"/proc/{self.pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[11])
        return 0
