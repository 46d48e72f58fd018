"""A process that holds much memory and goes on dirtying it."""

from __future__ import annotations

import argparse
import mmap
import os
import struct
import sys

from workloads.base import PAGE_BYTES, Checks, Workload, content, first_difference

MIB = 1 << 20
PAGES_PER_MIB = MIB // PAGE_BYTES
BASE_MIB = 8  # longer than the window of common compressors, so that the repetition does not flatter them
PRIVATE_PAGES = 64
_STAMP = struct.Struct("<QQ")  # page number, version


class PageRule:
    """Which version each page must have after ``counter`` writes: a pure function, nothing is stored per page.

    Write k goes to page ``k * stride % pages`` and leaves version k + 1; the stride is prime to the number of pages.
    """

    def __init__(self, pages: int) -> None:
        self.pages = max(pages, 1)
        self.stride = 104729 if self.pages % 104729 else 104723
        self._inverse = pow(self.stride, -1, self.pages) if self.pages > 1 else 0

    def page(self, write: int) -> int:
        """The page that this write goes to."""
        return write * self.stride % self.pages

    def version(self, page: int, counter: int) -> int:
        """The version of a page after ``counter`` writes; 0 if it was never written."""
        first = page * self._inverse % self.pages
        if first >= counter:
            return 0
        return first + (counter - 1 - first) // self.pages * self.pages + 1


class Memory(Workload):
    """One process with ``--mib`` of private memory, ``--rate`` MiB/s of it written again and again.

    Every page is unlike every other, and its content follows from seed, page number and counter alone, which live in
    another region. Beside it: a private mapping of a file of which every second page was changed.
    """

    kind = "memory"
    plants = ("byte", "stale-page", "zero-page", "swap-pages", "private-page")

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Size and dirty rate."""
        parser.add_argument("--mib", type=int, default=16)
        parser.add_argument("--rate", type=float, default=4.0, help="MiB/s of pages written")
        parser.add_argument("--bits", type=int, default=8, help="entropy of each byte, in bits: less can be compressed")

    def setup(self) -> None:
        """Fill the memory."""
        self.mib: int = self.options.mib
        self.rule = PageRule(self.mib * PAGES_PER_MIB)
        self.counter = 0
        self.debt = 0.0
        self.base = content(self.seed, "base", max(1, min(self.mib, BASE_MIB)) * MIB)
        if self.options.bits < 8:
            self.base = self.base.translate(bytes(value % (1 << self.options.bits) + 32 for value in range(256)))
        self.memory = mmap.mmap(-1, max(self.mib, 1) * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for block in range(self.mib):
            self.memory[block * MIB : (block + 1) * MIB] = self._expected(block)
        with open(sys.executable, "rb") as stream:
            self.private_pages = min(PRIVATE_PAGES, os.fstat(stream.fileno()).st_size // PAGE_BYTES)
            self.private = mmap.mmap(stream.fileno(), self.private_pages * PAGE_BYTES, access=mmap.ACCESS_COPY)
            self.original = stream.read(self.private_pages * PAGE_BYTES)
        for page in range(0, self.private_pages, 2):
            self.private[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = self._private(page)

    def step(self, elapsed_s: float) -> float:
        """Write the pages that are due."""
        if not self.mib:
            return 0.0
        self.debt += min(elapsed_s, 0.02) * self.options.rate * PAGES_PER_MIB
        while self.debt >= 1:
            page = self.rule.page(self.counter)
            # The memory first, then the counter: verification never runs between the two.
            _STAMP.pack_into(self.memory, page * PAGE_BYTES, page, self.counter + 1)
            self.counter += 1
            self.debt -= 1
        return 0.0

    def verify(self, checks: Checks) -> None:
        """Compare every byte."""
        for block in range(self.mib):
            found, expected = self.memory[block * MIB : (block + 1) * MIB], self._expected(block)
            if found != expected:
                checks.problems.append(self._difference(block * MIB + first_difference(found, expected)))
        checks.count("pages", self.mib * PAGES_PER_MIB)
        checks.count("writes", self.counter)
        for page in range(self.private_pages):
            place = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
            changed = self._private(page) if page % 2 == 0 else self.original[place]
            checks.equal(f"page {page} of the private file mapping", self.private[place], changed)
        checks.count("private pages", self.private_pages)

    def plant(self, kind: str) -> None:
        """Damage one page that the running writes will not repair soon."""
        page = self.rule.page(self.counter - 1)  # written last, so due again last
        place = page * PAGE_BYTES
        if kind == "byte":
            self.memory[place + 2000] ^= 1
        elif kind == "stale-page":
            _STAMP.pack_into(self.memory, place, page, max(0, self.rule.version(page, self.counter) - 1))
        elif kind == "zero-page":
            self.memory[place : place + PAGE_BYTES] = bytes(PAGE_BYTES)
        elif kind == "swap-pages":
            other = self.rule.page(self.counter - 2) * PAGE_BYTES
            one_page, other_page = self.memory[place : place + PAGE_BYTES], self.memory[other : other + PAGE_BYTES]
            self.memory[place : place + PAGE_BYTES] = other_page
            self.memory[other : other + PAGE_BYTES] = one_page
        elif kind == "private-page":
            self.private[0:PAGE_BYTES] = self.original[0:PAGE_BYTES]  # as if the copy had been dropped
        else:
            raise KeyError(kind)

    def _difference(self, offset: int) -> str:
        page = offset // PAGE_BYTES
        stamp = _STAMP.unpack_from(self.memory, page * PAGE_BYTES)
        version = self.rule.version(page, self.counter)
        return f"memory differs at byte {offset}: stamp {stamp} instead of {(page, version)} (page, version)"

    def _expected(self, block: int) -> bytearray:
        start = block * MIB % len(self.base)
        expected = bytearray(self.base[start : start + MIB])
        version, counter, first = self.rule.version, self.counter, block * PAGES_PER_MIB
        pack_into = _STAMP.pack_into
        for index in range(PAGES_PER_MIB):
            pack_into(expected, index * PAGE_BYTES, first + index, version(first + index, counter))
        return expected

    def _private(self, page: int) -> bytes:
        return content(self.seed, f"private {page}", PAGE_BYTES)
