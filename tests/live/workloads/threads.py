"""A process of many threads, each with a state of its own."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from typing import Optional

from workloads.base import ANSWER_LIMIT_S, PAGE_BYTES, Checks, Workload, content, first_difference, wait_until

PAUSE_S = 0.02
MASK_64 = (1 << 64) - 1
FIRST_SIGNAL = signal.SIGRTMIN + 5


class Thread:
    """One thread: a running sum and a page in its own frame, a blocked signal, a thread-local value."""

    def __init__(self, index: int, seed: int) -> None:
        self.index = index
        self.factor = seed * 1000 + index * 2 + 1
        self.first = content(seed, f"thread {index}", PAGE_BYTES)
        self.blocked = FIRST_SIGNAL + index % 20
        self.asked = 0
        self.answered = 0
        self.order = ""
        self.native_id = 0
        self.beats = 0
        self.report: dict[str, object] = {}
        self.thread = threading.Thread(target=self._live, daemon=True)

    def _live(self) -> None:
        local = threading.local()
        local.index = self.index
        page, total, beats = bytearray(self.first), 0, 0
        signal.pthread_sigmask(signal.SIG_BLOCK, {self.blocked, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM})
        while True:
            time.sleep(PAUSE_S)
            page[beats % PAGE_BYTES] = beats & 0xFF
            beats += 1
            total = (total + beats * self.factor) & MASK_64
            if self.order == "end":
                return
            if self.order == "byte":
                page[(beats + 100) % PAGE_BYTES] ^= 0x80
            elif self.order == "sum":
                total ^= 1
            elif self.order == "mask":
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {self.blocked})
            self.order = ""
            if self.asked != self.answered:
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
                self.report = {
                    "beats": beats,
                    "total": total,
                    "page": bytes(page),
                    "local": local.index,
                    "native id": threading.get_native_id(),
                    "blocks its signal": self.blocked in mask,
                }
                self.answered = self.asked

    def check(self, checks: Checks) -> None:
        """Compare the thread's report with what follows from its number of beats."""
        if not checks.expect(self.answered == self.asked, f"thread {self.index} does not answer"):
            return
        beats = self.report["beats"]
        assert isinstance(beats, int)
        page = bytearray(self.first)
        for beat in range(max(0, beats - PAGE_BYTES), beats):
            page[beat % PAGE_BYTES] = beat & 0xFF
        found = self.report["page"]
        assert isinstance(found, bytes)
        if found != page:
            checks.expect(False, f"thread {self.index}: its page differs at byte {first_difference(found, page)}")
        total = self.factor * (beats * (beats + 1) // 2) & MASK_64
        checks.equal(f"thread {self.index}: running sum", self.report["total"], total)
        checks.equal(f"thread {self.index}: thread-local value", self.report["local"], self.index)
        checks.equal(f"thread {self.index}: native id", self.report["native id"], self.native_id)
        checks.equal(f"thread {self.index}: blocked signal", self.report["blocks its signal"], True)
        checks.expect(beats >= self.beats, f"thread {self.index} went back in time")
        self.beats = beats


class Threads(Workload):
    """``--count`` threads; one more waits for a lock that the main thread holds."""

    kind = "threads"
    plants = ("end", "byte", "sum", "mask", "lock")

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """How many threads."""
        parser.add_argument("--count", type=int, default=50)

    def setup(self) -> None:
        """Start the threads."""
        self.threads = [Thread(index, self.seed) for index in range(self.options.count)]
        self.lock = threading.Lock()
        self.lock.acquire()
        self.passed: Optional[int] = None
        threading.Thread(target=self._wait_for_lock, daemon=True).start()
        for thread in self.threads:
            thread.thread.start()
        wait_until(lambda: all(thread.thread.native_id for thread in self.threads), ANSWER_LIMIT_S)
        for thread in self.threads:
            thread.native_id = thread.thread.native_id or 0

    def verify(self, checks: Checks) -> None:
        """Ask each thread and compare."""
        for thread in self.threads:
            thread.asked += 1
        wait_until(lambda: all(thread.answered == thread.asked for thread in self.threads), ANSWER_LIMIT_S)
        for thread in self.threads:
            thread.check(checks)
        checks.count("threads", len(self.threads))
        checks.expect(self.passed is None, "a thread got a lock that was never released")
        checks.count("waiting threads")

    def plant(self, kind: str) -> None:
        """Let the last thread damage its own state or end, or release the lock."""
        if kind == "lock":
            self.lock.release()
            wait_until(lambda: self.passed is not None, 1)
            return
        if kind not in self.plants:
            raise KeyError(kind)
        thread = self.threads[-1]
        thread.order = kind
        wait_until(lambda: not thread.order or not thread.thread.is_alive(), 1)

    def _wait_for_lock(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM})
        with self.lock:
            self.passed = threading.get_native_id()
