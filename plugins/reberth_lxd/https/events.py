"""The log events of a daemon while it moves something: rounds and failures that no operation tells.

Of the events only those are kept that say something of a move.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import Any

from reberth_hooks import Node, ReberthError
from reberth_lxd.api import websocket

PATH = "/1.0/events?type=logging"
PAGES, DUMPS, DUMPED = "CRIU pages", "Final CRIU dump started", "Dump finished"
MOVED, FAILED = "Migrated container", "Failed migrat"
MOST_KEPT = 10_000  # a move has a few dozen
KEPT = (PAGES, DUMPS, DUMPED, MOVED, FAILED)


class Events:
    """Listens from the moment it is made; one that cannot be had leaves no events and a reason in `trouble`."""

    def __init__(self, node: Node) -> None:
        self.kept: list[tuple[float, str, dict[str, Any]]] = []
        self.trouble, self._socket = "", None
        try:
            self._socket, rest = websocket.connect(node, PATH)
        except (OSError, ValueError, ReberthError) as error:
            self.trouble = str(error)
            return
        threading.Thread(target=self._read, args=(websocket.Stream(self._socket, rest),), daemon=True).start()

    def said(self, word: str) -> list[tuple[float, dict[str, Any]]]:
        """Return when (our boot clock, seconds) a message with this word came, and its context."""
        return [(at, context) for at, message, context in list(self.kept) if word in message]

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _read(self, stream: websocket.Stream) -> None:
        with contextlib.suppress(OSError, ValueError, EOFError, RecursionError):
            while len(self.kept) < MOST_KEPT:
                self._take(stream.message())

    def _take(self, text: bytes) -> None:
        if not any(word.encode() in text for word in KEPT):
            return
        whole = json.loads(text)
        metadata = whole.get("metadata") if isinstance(whole, dict) else None
        said = metadata if isinstance(metadata, dict) else {}
        message = str(said.get("message", ""))
        if message.startswith(KEPT):
            context = said.get("context")
            self.kept.append(
                (time.clock_gettime(time.CLOCK_BOOTTIME), message, context if isinstance(context, dict) else {})
            )
