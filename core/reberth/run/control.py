"""What the user wants changed of a run under way: `reberth set` writes it, the process that drives the run reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reberth.node.system.durable import write_whole

NAME = "wishes.json"


class Wishes:
    """The wishes of one run, in its directory; later ones replace earlier ones."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._seen_ns = 0

    def add(self, values: dict[str, Any]) -> dict[str, Any]:
        """Write these beside those that stand; returns all of them."""
        stand = {**self._read(), **values}
        write_whole(str(self.path), json.dumps(stand), 0o600)
        return stand

    def news(self) -> dict[str, Any]:
        """Return all of them when something was added since the last look, else nothing."""
        try:
            changed_ns = self.path.stat().st_mtime_ns
        except OSError:  # there is none, or the disk is broken: the run goes on as it is
            return {}
        if changed_ns == self._seen_ns:
            return {}
        self._seen_ns = changed_ns
        return self._read()

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
