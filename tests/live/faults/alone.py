"""What the node behind a cut link has done by itself: looked at from inside, before the link is mended.

A node that waits for its link for ever is well again as soon as somebody mends it, so a look after that proves nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reberth_lab.node import Node

LIMIT_S = 60.0  # ten seconds of silence, at most as many until the other side stops talking, and a slow machine
STATE = "var/lib/reberth"
# The records after which an end of the move has done its part, or has reason to wait (READY, PERMIT).
DONE = {"source": {"resumed", "released"}, "target": {"taken-back", "landed", "landing-failed"}}
MAY_WAIT = {"source": ("voting", "READY"), "target": ("deciding", "PERMIT")}


def acted(role: str, records: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether this end of a run has acted alone, or may wait for the other one."""
    found = [(record["event"], record.get("value")) for record in records]
    return any(event in DONE[role] for event, _ in found) or MAY_WAIT[role] in found


def records(node: Node, run_id: str) -> list[dict[str, Any]] | None:
    """Return the node's journal of a run that is open there; None when it never was, or has ended."""
    path: Path = node.root / STATE / run_id / "journal.jsonl"
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:  # the last one, which is being written
            continue
    return found


def problem(node: Node, role: str, run_id: str, until_s: float) -> str:
    """Wait until the node has acted, at most until this time of the monotonic clock; return what it failed to do."""
    while True:
        found = records(node, run_id)
        if found is None or acted(role, found):
            return ""
        if time.monotonic() > until_s:
            last = found[-1]["event"] if found else "nothing"
            return f"{node.name} never acted alone: the {role} still waits behind its cut link, after {last!r}"
        time.sleep(0.25)
