"""Which pages are to follow a copy, and the state of each: the book that `prefetch` keeps."""

from __future__ import annotations

import bisect
import os
from typing import NamedTuple, Optional

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
UNASKED, ASKED, SERVED, HERE = 0, 1, 2, 3  # HERE: in the images of an earlier round, and not yet served


class Place(NamedTuple):
    """One page of one process."""

    owner: int
    address: int


class Area:
    """A run of pages that the source keeps, and the state of each."""

    def __init__(self, owner: int, start: int, pages: int, state: int = UNASKED) -> None:
        self.owner, self.start, self.state = owner, start, bytearray([state]) * pages

    def unasked_from(self, index: int, most: int) -> int:
        """Return how many pages in a row from here were not asked for yet."""
        end = min(len(self.state), index + most)
        count = 0
        while index + count < end and self.state[index + count] == UNASKED:
            count += 1
        return count


class Ledger:
    """All areas, found by address, walked in order."""

    def __init__(self, areas: list[Area]) -> None:
        self.areas = sorted(areas, key=lambda a: (a.owner, a.start))
        self.keys = [(a.owner, a.start) for a in self.areas]
        self.served = 0
        self._next = (0, 0)

    def find(self, place: Place) -> Optional[tuple[Area, int]]:
        """Return the area of a page and its index there."""
        at = bisect.bisect_right(self.keys, place) - 1
        if at < 0 or self.areas[at].owner != place.owner:
            return None
        index = (place.address - self.areas[at].start) // PAGE_BYTES
        return (self.areas[at], index) if index < len(self.areas[at].state) else None

    def state(self, place: Place) -> int:
        """Return the state of a page; SERVED for one that is in no area."""
        found = self.find(place)
        return found[0].state[found[1]] if found else SERVED

    def mark(self, place: Place, pages: int, state: int) -> None:
        """Note it for some pages in a row."""
        found = self.find(place)
        if found:
            area, index = found
            before = area.state[index : index + pages]
            if state == SERVED:
                self.served += len(before) - before.count(SERVED)
            after = bytes([state]) * len(before)
            if SERVED in before:  # once served, for ever counted
                after = bytes(SERVED if one == SERVED else state for one in before)
            area.state[index : index + len(before)] = after

    def next_run(self, most: int) -> Optional[tuple[Place, int]]:
        """Return the next pages that were not asked for yet."""
        number, index = self._next
        while number < len(self.areas):
            area = self.areas[number]
            while index < len(area.state):
                index = area.state.find(UNASKED, index)
                if index < 0:
                    break
                self._next = (number, index)
                return Place(area.owner, area.start + index * PAGE_BYTES), area.unasked_from(index, most)
            number, index = number + 1, 0
            self._next = (number, index)
        return None

    def rewind(self) -> None:
        """Look again from the beginning: something was put back."""
        self._next = (0, 0)
