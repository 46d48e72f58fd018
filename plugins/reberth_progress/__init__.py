"""Observer that shows a migration on stderr: a bar on a terminal, plain lines elsewhere, nothing if asked so.

`REBERTH_PROGRESS` is `none`, `plain` or `rich`; unset, a terminal gets the bar. `NO_COLOR` takes its colours away.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

from reberth_hooks import Declaration, Event, Role, hookimpl
from reberth_progress.plain import Lines, View

_lock = threading.Lock()
_view: View | None = None  # the one that is open; rich's live display can exist only once


@hookimpl
def reberth_describe() -> Declaration:
    """Say what this plugin is."""
    return Declaration(
        summary="shows phases, bytes, rate and time left on stderr",
        roles=frozenset({Role.OBSERVER}),
    )


@hookimpl
def reberth_event(event: Event) -> None:
    """Show one event; the end of a run closes the display."""
    global _view
    with _lock:
        if _style() == "none" or event.data.get("quiet"):
            return
        if _view is None:
            _view = _open_view()
        try:
            _view.show(event)
        except Exception:
            # Whatever became of the terminal: leave it usable, and let the next event try with a new display.
            _close()
            raise
        if event.kind == "end":
            _close()


def _close() -> None:
    global _view
    view, _view = _view, None
    if view is not None:
        with contextlib.suppress(OSError, ValueError):
            view.close()


def _style() -> str:
    wanted = os.environ.get("REBERTH_PROGRESS", "")
    if wanted in ("none", "plain", "rich"):
        return wanted
    return "rich" if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" else "plain"


def _open_view() -> View:
    if _style() == "rich":
        with contextlib.suppress(ImportError):
            from reberth_progress.bar import Bar

            return Bar()
    return Lines(sys.stderr)
