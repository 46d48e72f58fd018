"""Memory, and a pulse that can be felt from outside: whoever reads the file knows when this very copy last ran."""

from __future__ import annotations

import os
import struct
import time

from workloads.base import Checks
from workloads.memory import Memory

# Beats so far, and CLOCK_REALTIME in ns: the one clock that two nodes on one machine share with who watches them.
PULSE = struct.Struct("<QQ")


class Pulse(Memory):
    """As ``memory``; every beat writes its number and its time into DIR/pulse."""

    kind = "pulse"

    def prepare(self) -> None:
        """The file must be there, of its size, where the copy will open it."""
        os.makedirs(self.directory, exist_ok=True)
        with open(os.path.join(self.directory, "pulse"), "wb") as stream:
            stream.write(PULSE.pack(0, 0))

    def setup(self) -> None:
        """Fill the memory and open the file."""
        super().setup()
        self.prepare()
        self.pulse = os.open(os.path.join(self.directory, "pulse"), os.O_WRONLY)
        self.turns = 0

    def step(self, elapsed_s: float) -> float:
        """One beat."""
        self.turns += 1
        os.pwrite(self.pulse, PULSE.pack(self.turns, time.time_ns()), 0)
        return super().step(elapsed_s)

    def verify(self, checks: Checks) -> None:
        """The memory, and that there were beats."""
        super().verify(checks)
        checks.count("turns", self.turns)
