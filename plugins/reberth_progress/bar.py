"""The display on a terminal: rich's progress bar, redrawn only when something happens."""

from __future__ import annotations

import atexit
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from reberth_hooks import Event
from reberth_progress.plain import end_text, kind_of, safe, whole

REDRAW_S = 0.1


class Bar:
    """One bar for the flow of bytes; phases that are over become lines above it.

    It is drawn without rich's refresh thread: the controller starts processes, and nothing here may delay the frozen
    window.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
        )
        self._phase = ("", 0.0)
        self._task: TaskID | None = None
        self._kind = ""
        self._drawn_s = 0.0
        self._progress.start()
        atexit.register(self.close)  # an exception must not leave the cursor hidden

    def show(self, event: Event) -> None:
        """Draw the event."""
        if event.kind == "progress":
            self._flow(event)
        elif event.kind == "phase":
            self._end_phase()
            self._phase = (safe(event.phase or event.text), time.monotonic())
            self._begin(self._phase[0])
        elif event.kind == "step" and self._task is not None:
            self._progress.update(self._task, description=f"{self._phase[0]}: {safe(event.text)}")
        elif event.kind == "warning":
            self._line(Text(f"warning: {safe(event.text)}", style="yellow"))
        elif event.kind == "end":
            self._end_phase()
            self._line(Text(end_text(event), style="bold"))
        self._draw(force=event.kind != "progress")

    def close(self) -> None:
        """Take the bar away and show the cursor again."""
        atexit.unregister(self.close)
        self._progress.stop()

    def _flow(self, event: Event) -> None:
        kind = safe(kind_of(event))
        if self._task is None or kind != self._kind:
            self._begin(f"{self._phase[0]}: {kind}" if self._phase[0] else kind)
            self._kind = kind
        if self._task is not None:
            total = whole(event.data.get("total_bytes")) or None
            self._progress.update(self._task, completed=whole(event.data.get("bytes")), total=total)

    def _begin(self, description: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._kind = ""
        self._task = self._progress.add_task(description, total=None)

    def _end_phase(self) -> None:
        name, begin_s = self._phase
        if name:
            self._line(Text(f"{name:<16}{time.monotonic() - begin_s:9.2f} s"))
        self._phase = ("", 0.0)

    def _line(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _draw(self, *, force: bool) -> None:
        now_s = time.monotonic()
        if force or now_s - self._drawn_s >= REDRAW_S:
            self._drawn_s = now_s
            self._progress.refresh()
