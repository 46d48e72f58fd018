"""A limit of bytes per second that can be changed while data flows."""

from __future__ import annotations

import threading
import time

BURST_S = 0.05  # what was not used for longer than this is lost: a pause is no credit


class Bucket:
    """A limit on bytes per second: a sender calls `spend` after each piece, and waits there; 0 is no limit."""

    def __init__(self) -> None:
        self.rate_bytes_s = 0
        self._due_s = 0.0
        self._changed = threading.Condition()

    def limit(self, rate_bytes_s: int) -> None:
        """Change the rate; who waits by the old one goes on by the new one."""
        with self._changed:
            self.rate_bytes_s, self._due_s = max(0, rate_bytes_s), 0.0
            self._changed.notify_all()

    def spend(self, count: int) -> None:
        """Wait until so many bytes were allowed."""
        with self._changed:
            if not self.rate_bytes_s:
                return
            now_s = time.monotonic()
            self._due_s = max(self._due_s, now_s - BURST_S) + count / self.rate_bytes_s
            while self._due_s > time.monotonic():
                self._changed.wait(self._due_s - time.monotonic())
