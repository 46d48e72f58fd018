"""Two processes that share memory in several ways."""

from __future__ import annotations

import argparse
import fcntl
import mmap
import os
import signal
import time
from typing import Callable

from workloads.base import ANSWER_LIMIT_S, PAGE_BYTES, Bytes, Checks, Workload, content, first_difference
from workloads.board import Board

PAUSE_S = 0.002
F_ADD_SEALS, F_GET_SEALS = 1033, 1034  # not in Python's fcntl before 3.8 on all systems
SEALS = 0x2 | 0x4  # F_SEAL_SHRINK | F_SEAL_GROW
UNSHARE = 1


class Region:
    """One shared mapping; parent and child each own every second page and go on changing it."""

    def __init__(self, name: str, pages: int, seed: int, number: int) -> None:
        self.name = name
        self.pages = pages
        self.number = number
        self.memory = mmap.mmap(number, pages * PAGE_BYTES)
        self.first = content(seed, name, pages * PAGE_BYTES)
        self.memory[:] = self.first

    def write(self, side: int, count: int) -> None:
        """Write number ``count`` of one side: a byte in one of its own pages."""
        self.memory[self.place(side, count)] = count & 0xFF

    def place(self, side: int, count: int) -> int:
        """Where write ``count`` of a side goes."""
        page = (count * 2 + side) % self.pages
        return page * PAGE_BYTES + count // (self.pages // 2) * 13 % PAGE_BYTES

    def expected(self, counts: tuple[int, int]) -> bytearray:
        """What the region must hold after so many writes of the parent and of the child."""
        data = bytearray(self.first)
        for side, total in enumerate(counts):
            span = (self.pages // 2) * PAGE_BYTES
            for count in range(max(0, total - span), total):
                data[self.place(side, count)] = count & 0xFF
        return data


class Shm(Workload):
    """Anonymous shared memory and a sealed memfd, shared by parent and child, both writing all the time."""

    kind = "shm"
    plants = ("anonymous", "memfd", "seals", "unshare", "child")

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Size."""
        parser.add_argument("--pages", type=int, default=256)

    def setup(self) -> None:
        """Create the regions, start the child."""
        pages: int = self.options.pages // 2 * 2
        memfd = os.memfd_create("reberth-workload", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.ftruncate(memfd, pages * PAGE_BYTES)
        fcntl.fcntl(memfd, F_ADD_SEALS, SEALS)
        self.memfd = memfd
        self.regions = [
            Region("anonymous", pages, self.seed, -1),
            Region("memfd", pages, self.seed, memfd),
        ]
        self.board = Board(1)
        self.writes = 0
        self.child = os.fork()
        if self.child == 0:
            try:
                self._live(os.getppid())
            finally:
                os._exit(1)
        if self.board.wait([0], self.board.ask(), ANSWER_LIMIT_S):
            raise RuntimeError("the child did not come up")
        self.board.ask()  # the child goes on

    def step(self, elapsed_s: float) -> float:
        """One write of the parent to each region."""
        for region in self.regions:
            region.write(0, self.writes)
        self.writes += 1
        return 0.0

    def verify(self, checks: Checks) -> None:
        """Stop the child for a moment, compare all bytes, test that both see each other's writes."""
        if not checks.expect(not self.board.wait([0], self.board.ask(), ANSWER_LIMIT_S), "the child does not answer"):
            return
        counts = (self.writes, self.board.read(0)[0])
        for region in self.regions:
            expected = region.expected(counts)
            self._compare(checks, region.name, region.memory[:], expected)
            if region.number >= 0:
                by_descriptor = os.pread(region.number, len(expected), 0)
                self._compare(checks, f"{region.name} by its descriptor", by_descriptor, expected)
        checks.equal("seals of the memfd", fcntl.fcntl(self.memfd, F_GET_SEALS), SEALS)
        name = os.readlink(f"/proc/self/fd/{self.memfd}")
        checks.equal("name of the memfd", name, "/memfd:reberth-workload (deleted)")
        checks.count("shared pages", sum(region.pages for region in self.regions))
        self.board.ask()  # the child goes on

    def plant(self, kind: str) -> None:
        """Damage a region or the sharing."""
        place = self.regions[0].place(1, 5) + 1
        if kind == "anonymous":
            self.regions[0].memory[place] ^= 1
        elif kind == "memfd":
            self.regions[1].memory[place] ^= 1
        elif kind == "seals":
            other = os.memfd_create("reberth-workload", os.MFD_ALLOW_SEALING)
            os.write(other, self.regions[1].memory[:])
            os.dup2(other, self.memfd)
            os.close(other)
        elif kind == "unshare":
            self.board.order(0, UNSHARE)
            time.sleep(0.1)
        elif kind == "child":
            os.kill(self.child, signal.SIGKILL)
        else:
            raise KeyError(kind)

    def close(self) -> None:
        """End the child."""
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)

    def _compare(self, checks: Checks, name: str, found: Bytes, expected: Bytes) -> None:
        checks.expect(found == expected, f"{name}: differs at byte {first_difference(found, expected)}")

    def _live(self, parent: int) -> None:
        """The child: writes while the serial is even, answers and waits while it is odd."""
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        alive: Callable[[], bool] = lambda: os.getppid() == parent  # noqa: E731
        writes = 0
        while alive():
            time.sleep(PAUSE_S)
            serial = self.board.serial
            if serial % 2:
                self.board.answer(0, serial, [writes])
                continue
            if self.board.command(0) == UNSHARE:
                self._unshare()
            for region in self.regions:
                region.write(1, writes)
            writes += 1

    def _unshare(self) -> None:
        """Go on with a private copy, as if the mapping had been restored as private memory."""
        for region in self.regions:
            copy = mmap.mmap(-1, region.pages * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            copy[:] = region.memory[:]
            region.memory = copy
