"""The line between the two helpers: each tells how its end stands, and one without a controller acts on that.

After READY a source never wakes without the target's verdict, and a target that holds a whole copy neither lands nor
gives it up without the source's vote. Where the nodes reach each other neither need wait for the controller to bring
it: both send their facts each second, and once more when their end has come. All that is acted on stays true for ever
(a vote, a verdict, a landing, a fill, a copy taken back), so an old message is as good as a new one.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable

TELL_S = 1.0
SEND_S = 3.0
READ_S = 0.2  # what is ready may be no more than a piece of a TLS record
LAST_S = 2.0
LINE_LIMIT_BYTES = 64 << 10


def what_follows(target: Mapping[str, Any]) -> str:
    """Return what a source that has voted READY does after this: `kill`, `resume`, or empty as long as it must wait.

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
        return ""  # a copy that was not seen living does not end the source
    return "kill" if runs and whole and not target.get("rebooted") else ""


class Line:
    """One end of the line; `heard` is what the other end said last, None before its first word.

    One thread both tells and listens: a TLS connection may not be read and written at the same time.
    """

    def __init__(self, connection: socket.socket, facts: Callable[[], Mapping[str, Any]], other: str) -> None:
        """`other` is the role whose words are heard."""
        self.connection, self.facts, self.other = connection, facts, other
        self.heard: dict[str, Any] | None = None
        self.lock = threading.Lock()
        self._rest = b""
        self._mute = False  # the other end takes nothing any more; its last words may still be here

    def run(self, done: threading.Event) -> None:
        """Tell each second, and listen, until this helper is done or the other end hangs up."""
        try:
            while not done.is_set():
                self.tell()
                end_s = time.monotonic() + TELL_S
                while time.monotonic() < end_s and not done.is_set():
                    if not self.hear(0.2):
                        return
        except (OSError, ValueError, RecursionError):  # hung up, or said what is no message
            return
        finally:
            if not done.is_set():
                with self.lock:
                    self.connection.close()

    def tell(self) -> None:
        """Send the facts as they are now; an end that takes nothing is not told again."""
        data = (json.dumps(self.facts(), separators=(",", ":")) + "\n").encode()
        with self.lock:
            if self._mute:
                return
            try:
                self.connection.settimeout(SEND_S)
                self.connection.sendall(data)
            except OSError:
                self._mute = True

    def hear(self, wait_s: float) -> bool:
        """Take what the other end has said, waiting so long for it; false when it has hung up.

        Raises ValueError for what is no message.
        """
        pending = getattr(self.connection, "pending", None)
        if not (pending and pending()) and not select.select([self.connection], [], [], wait_s)[0]:
            return True
        with self.lock:
            self.connection.settimeout(READ_S)
            try:
                data = self.connection.recv(LINE_LIMIT_BYTES)
            except socket.timeout:
                return True
        if not data:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_LIMIT_BYTES:
            raise ValueError("a line without an end")
        for line in lines:
            message = json.loads(line)
            if isinstance(message, dict) and message.get("role") == self.other:
                self.heard = message
        return True

    def close(self) -> None:
        """Tell the end, and hang up when the other end has, so that nothing said is lost on its way."""
        self.tell()
        with contextlib.suppress(OSError, ValueError):
            self.connection.shutdown(socket.SHUT_WR)
            end_s = time.monotonic() + LAST_S
            while time.monotonic() < end_s and self.hear(0.2):
                pass
        with self.lock:
            self.connection.close()
