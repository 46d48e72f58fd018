"""A shared board by which the processes of one workload answer the root process's questions."""

from __future__ import annotations

import mmap
import struct
from typing import Sequence

from workloads.base import wait_until

FIELDS = 8
_WORD = struct.Struct("<q")
_SLOT = struct.Struct(f"<{FIELDS}q")
_HEAD_BYTES = 64


class Board:
    """Shared anonymous memory: one serial number of the question, per slot one command and one answer.

    Every word has one writer: the root writes serial and commands, a slot's owner writes its answer, the serial last.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._commands = _HEAD_BYTES
        self._answers = _HEAD_BYTES + 8 * slots
        self._memory = mmap.mmap(-1, self._answers + _SLOT.size * slots)

    @property
    def serial(self) -> int:
        """Number of the question last asked."""
        return self._word(0)

    def ask(self) -> int:
        """Ask all slots; returns the new serial number."""
        self._set(0, self.serial + 1)
        return self.serial

    def command(self, slot: int) -> int:
        """What the root wants the owner of this slot to do; 0 is nothing."""
        return self._word(self._commands + 8 * slot)

    def order(self, slot: int, command: int) -> None:
        """Give the owner of a slot a command."""
        self._set(self._commands + 8 * slot, command)

    def answer(self, slot: int, serial: int, values: Sequence[int]) -> None:
        """Write the owner's answer to question ``serial``: up to seven whole numbers."""
        place = self._answers + _SLOT.size * slot
        for index, value in enumerate(values):
            self._set(place + 8 * (index + 1), value)
        self._set(place, serial)

    def answered(self, slot: int) -> int:
        """Serial number of the last question that this slot has answered."""
        return self._word(self._answers + _SLOT.size * slot)

    def read(self, slot: int) -> list[int]:
        """The values of the slot's last answer."""
        return list(_SLOT.unpack_from(self._memory, self._answers + _SLOT.size * slot)[1:])

    def wait(self, slots: Sequence[int], serial: int, limit_s: float) -> list[int]:
        """Wait for answers; the slots that gave none within the limit."""
        wait_until(lambda: all(self.answered(slot) == serial for slot in slots), limit_s)
        return [slot for slot in slots if self.answered(slot) != serial]

    def _word(self, place: int) -> int:
        return int(_WORD.unpack_from(self._memory, place)[0])

    def _set(self, place: int, value: int) -> None:
        _WORD.pack_into(self._memory, place, value)
