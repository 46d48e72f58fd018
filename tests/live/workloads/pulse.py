"""Memory, and a pulse that can be felt from outside: an attribute of a file tells when this very copy last ran."""

from __future__ import annotations

import os
import struct
import time

from workloads.base import Checks
from workloads.memory import Memory

# CLOCK_REALTIME in ns, the one clock that two nodes on one machine share with who watches them; the newest so many,
# so that a look every few milliseconds misses none. An attribute of the file is set by its name: nothing is open for
# writing at the freeze, which would be content that must be the same on both nodes.
STAMP = struct.Struct("<Q")
STAMPS = 256
ATTRIBUTE = "user.pulse"


class Pulse(Memory):
    """As ``memory``; every beat writes its time into an attribute of DIR/pulse."""

    kind = "pulse"
    plants = ()  # those of `memory` are tried there

    def prepare(self) -> None:
        """Make the file, where the copy will find it."""
        os.makedirs(self.directory, exist_ok=True)
        with open(os.path.join(self.directory, "pulse"), "wb"):
            pass

    def setup(self) -> None:
        """Fill the memory and make the file."""
        super().setup()
        self.prepare()
        self.path = os.path.join(self.directory, "pulse")
        self.kept = os.open(self.path, os.O_RDONLY)  # so criu needs the file where the copy is built
        self.stamps = bytearray(STAMP.size * STAMPS)
        self.turns = 0

    def step(self, elapsed_s: float) -> float:
        """One beat."""
        STAMP.pack_into(self.stamps, self.turns % STAMPS * STAMP.size, time.time_ns())
        os.setxattr(self.path, ATTRIBUTE, bytes(self.stamps))
        self.turns += 1
        return super().step(elapsed_s)

    def verify(self, checks: Checks) -> None:
        """The memory, and that there were beats."""
        super().verify(checks)
        checks.count("turns", self.turns)
