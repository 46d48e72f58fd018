"""All of it: what is saved of a tree that stands still, and what is set again in its held copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reberth.node.attributes import sockets, tasks, timers

KINDS = {"tasks": tasks, "sockets": sockets, "timers": timers}


def save(pids: Iterable[int]) -> dict[str, Any]:
    """Return what CRIU forgets of these processes, by kind."""
    known = list(pids)
    return {name: kind.save(known) for name, kind in KINDS.items()}


def set_again(pids: Iterable[int], saved: Mapping[str, Any]) -> list[str]:
    """Give the copy's processes what was saved; return what could not be set, in words."""
    known, lost = list(pids), []
    for name, kind in KINDS.items():
        if name in saved:
            lost += kind.set_again(known, saved[name])
    return lost
