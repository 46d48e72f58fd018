"""The line between the two helpers: the target tells how its end stands, and a source without a controller acts on it.

After READY a source never wakes without the target's verdict. Where the nodes reach each other it need not wait for the
controller to bring it: the target sends its facts each second, and once more when its end has come. All that is acted
on stays true for ever (a verdict, a landing, a fill, a copy taken back), so an old message is as good as a new one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any, Callable

TELL_S = 1.0
SEND_S = 3.0
LINE_LIMIT_BYTES = 64 << 10


def what_follows(target: Mapping[str, Any]) -> str:
    """What a source that has voted READY does after this: `kill`, `resume`, or empty as long as it must wait.

    The same rows as `reberth.run.decide.decide` has them; a test compares the two.
    """
    verdict = target.get("verdict")
    if verdict not in ("PERMIT", "ABORT"):
        return ""
    if target.get("taken_back"):
        return "resume"
    if verdict == "ABORT":
        return "resume" if target.get("ended") else ""
    runs = target.get("landed") and (target.get("running_ns") or target.get("ended"))
    whole = target.get("filled") or not target.get("lazy")
    if target.get("unseen") or target.get("ill"):
        return ""  # a copy that nobody has seen living does not end the source
    return "kill" if runs and whole and not target.get("rebooted") else ""


class Teller:
    """The target's end of the line."""

    def __init__(self, connection: socket.socket, facts: Callable[[], Mapping[str, Any]]) -> None:
        connection.settimeout(SEND_S)
        self.connection, self.facts = connection, facts
        self.lock = threading.Lock()

    def run(self, done: threading.Event) -> None:
        """Tell each second until this helper is done or nobody listens any more."""
        with contextlib.suppress(OSError):
            while not done.is_set():
                self.tell()
                done.wait(TELL_S)

    def tell(self) -> None:
        """Send the facts as they are now."""
        with self.lock:
            self.connection.sendall((json.dumps(self.facts(), separators=(",", ":")) + "\n").encode())

    def close(self) -> None:
        """Tell the end and hang up."""
        with contextlib.suppress(OSError):
            self.tell()
        self.connection.close()


class Listener:
    """The source's end: `heard` is what the target said last, None before its first word."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        self.connection = connection
        self.heard: dict[str, Any] | None = None

    def run(self) -> None:
        """Listen until the target hangs up or says what is no message."""
        with contextlib.suppress(OSError, ValueError, RecursionError), self.connection.makefile("rb") as lines:
            while True:
                line = lines.readline(LINE_LIMIT_BYTES)
                if not line.endswith(b"\n"):
                    break
                message = json.loads(line)
                if isinstance(message, dict) and message.get("role") == "target":
                    self.heard = message
        self.connection.close()
