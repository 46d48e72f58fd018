"""The plain display: one line for a phase, and at most one a second for bytes."""

from __future__ import annotations

import time
from typing import Protocol, TextIO

from reberth_hooks import Event

INTERVAL_S = 1.0


class View(Protocol):
    """A display of one migration."""

    def show(self, event: Event) -> None:
        """Show one event."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def safe(text: object) -> str:
    """Return the text on one line, with every character that could steer a terminal turned into its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def size(number: float) -> str:
    """Return a size in MiB, the same unit throughout so that lines compare."""
    return f"{number / 2**20:.1f} MiB"


def whole(value: object) -> int:
    """Return a count out of an event's data; anything that is no number is 0."""
    return int(value) if isinstance(value, (int, float)) and value > 0 else 0


def kind_of(event: Event) -> str:
    """Return what is flowing: the event's own word for it, else its phase."""
    return str(event.data.get("kind") or event.text or event.phase or "data")


def end_text(event: Event) -> str:
    """Return the last line: what came out, and how long the workload stood still."""
    downtime = event.data.get("downtime_s")
    cost = f", downtime {downtime * 1000:.0f} ms" if isinstance(downtime, (int, float)) else ""
    return safe(f"{event.data.get('outcome') or event.text or 'end'}{cost}")


class Lines:
    """Writes lines to a stream that is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begin_s = time.monotonic()
        self._shown_s = 0.0
        self._flow: tuple[str, float] = ("", 0.0)

    def show(self, event: Event) -> None:
        """Write the event's line, if it has one."""
        if event.kind == "phase":
            self._flow = ("", 0.0)
            self._write(safe(event.phase or event.text))
        elif event.kind == "warning":
            self._write(f"warning: {safe(event.text)}")
        elif event.kind == "end":
            self._write(end_text(event))
        elif event.kind == "progress":
            self._progress(event)

    def close(self) -> None:
        """Nothing to leave behind."""

    def _progress(self, event: Event) -> None:
        now_s = time.monotonic()
        kind = kind_of(event)
        if self._flow[0] != kind:
            self._flow = (kind, now_s)
        if now_s - self._shown_s < INTERVAL_S:
            return
        self._shown_s = now_s
        self._write(_flow_text(kind, event, now_s - self._flow[1]))

    def _write(self, text: str) -> None:
        self._stream.write(f"[{time.monotonic() - self._begin_s:8.2f} s] {text}\n")
        self._stream.flush()


def _flow_text(kind: str, event: Event, seconds: float) -> str:
    """Bytes so far, the rate since this kind began, and the time left where the total is known."""
    done, total = whole(event.data.get("bytes")), whole(event.data.get("total_bytes"))
    text = f"{safe(kind)}: {size(done)}" + (f" of {size(total)}" if total else "")
    rate = done / seconds if seconds > 0 else 0.0
    if rate > 0:
        text += f", {size(rate)}/s"
        if total > done:
            text += f", {(total - done) / rate:.0f} s left"
    return text
