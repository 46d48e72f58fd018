"""What a login prints before the helper's first program runs: the controller skips it, and keeps some of it to tell."""

from __future__ import annotations

import io
import threading
from typing import Any

from reberth.connect.boot import MARK

NOISE_BYTES = 4 << 20  # a login that prints more is taken for one that never ends
KEPT_BYTES = 2000


class Greeting:
    """The beginning of a connection's output; one thread reads it, another waits for `over`."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.started = False  # the mark came, so the login works and Python runs
        self._kept, self.count = b"", 0

    @property
    def printed(self) -> str:
        """Return the end of what was printed instead of the mark, or before it."""
        return self._kept.replace(b"\0", b"").decode(errors="replace").strip()

    def read(self, stream: io.BufferedReader[Any]) -> bool:
        """Read up to the mark and none further; False when it does not come."""
        try:
            self._skip(stream)
        finally:
            self.over.set()
        return self.started

    def _skip(self, stream: io.BufferedReader[Any]) -> None:
        data = b""
        while not self.started and self.count <= NOISE_BYTES:
            piece = stream.peek(1)
            if not piece:
                break
            data = data[-len(MARK) :] + piece
            at = data.find(MARK)
            self.started = at >= 0
            used = at + len(MARK) - (len(data) - len(piece)) if self.started else len(piece)
            stream.read(used)
            self.count += used
            self._kept = (self._kept + piece[:used])[-KEPT_BYTES - len(MARK) :]
        if self.started:
            self._kept = self._kept[: -len(MARK)]
