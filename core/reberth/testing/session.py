"""The session of the lab: the two ends' bulk connections are one pipe, which a test may cut or damage on its way."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reberth.connect.helper import HelperShell
from reberth.run.journal import Journal
from reberth.run.session import Session
from reberth.testing.shell import LabShell
from reberth_hooks import Event, Plan

CHUNK_BYTES = 1 << 16


@dataclass
class Wire:
    """What happens to bulk data: `cut_at` and `flip_at` count bytes from its begin; `carried` is what came by."""

    cut_at: int | None = None
    flip_at: int | None = None
    opened: int = 0
    carried: int = 0
    struck: bool = False

    def pump(self, in_fd: int, out_fd: int) -> None:
        """Carry everything over, with the faults asked for."""
        with contextlib.suppress(OSError):
            while data := bytearray(os.read(in_fd, CHUNK_BYTES)):
                if self.flip_at is not None and self.carried <= self.flip_at < self.carried + len(data):
                    data[self.flip_at - self.carried] ^= 0x10
                    self.struck = True
                if self.cut_at is not None and self.carried + len(data) >= self.cut_at:
                    os.write(out_fd, data[: self.cut_at - self.carried])
                    self.struck = True
                    break
                view = memoryview(data)
                while view:
                    view = view[os.write(out_fd, view) :]
                self.carried += len(data)
        for fd in (in_fd, out_fd):
            with contextlib.suppress(OSError):
                os.close(fd)


class LabSession(Session):
    """One move in the lab."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        shells: tuple[HelperShell, HelperShell],
        tell: Callable[[Event], None],
        reconnect: Callable[[str], HelperShell],
        wire: Wire,
    ) -> None:
        super().__init__(plan, journal, shells, tell, reconnect)
        self.wire = wire
        self._fds: list[int] = []

    def open_pipe(self) -> None:
        """Join both ends; once."""
        if self._fds:
            return
        self.wire.opened += 1
        source_r, source_w = os.pipe()
        target_r, target_w = os.pipe()
        self._fds = [source_w, target_r]
        threading.Thread(target=self.wire.pump, args=(source_r, target_w), daemon=True).start()
        for end, pair in ((self.source, (-1, source_w)), (self.target, (target_r, -1))):
            assert isinstance(end, LabShell)
            end.daemon.bulk = pair
            end.daemon.bulk_ready.set()

    def close_pipe(self) -> None:
        """End the data connection."""
        for end in self.ends:
            if isinstance(end, LabShell):
                end.daemon.stop_transfers.set()
        fds, self._fds = self._fds, []
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)

    def facts_now(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Return what both ends say, asked anew."""
        self.forget()
        return self.look()
