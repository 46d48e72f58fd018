"""Memory, and a pulse that can be felt from outside: whoever reads the file knows when this very copy last ran."""

from __future__ import annotations

import os
import struct
import time

from workloads.base import Checks
from workloads.memory import Memory

# CLOCK_REALTIME in ns, the one clock that two nodes on one machine share with who watches them; the newest so many,
# so that whoever looks every few milliseconds misses none.
STAMP = struct.Struct("<Q")
STAMPS = 512


class Pulse(Memory):
    """As ``memory``; every beat writes its time into DIR/pulse."""

    kind = "pulse"
    plants = ()  # those of `memory` are tried there

    def prepare(self) -> None:
        """The file must be there, and of its size, where the copy will open it."""
        os.makedirs(self.directory, exist_ok=True)
        with open(os.path.join(self.directory, "pulse"), "wb") as stream:
            stream.write(bytes(STAMP.size * STAMPS))

    def setup(self) -> None:
        """Fill the memory and open the file."""
        super().setup()
        self.prepare()
        self.pulse = os.open(os.path.join(self.directory, "pulse"), os.O_WRONLY)
        self.turns = 0

    def step(self, elapsed_s: float) -> float:
        """One beat."""
        os.pwrite(self.pulse, STAMP.pack(time.time_ns()), self.turns % STAMPS * STAMP.size)
        self.turns += 1
        return super().step(elapsed_s)

    def verify(self, checks: Checks) -> None:
        """The memory, and that there were beats."""
        super().verify(checks)
        checks.count("turns", self.turns)
