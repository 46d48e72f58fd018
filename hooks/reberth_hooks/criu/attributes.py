"""State that CRIU forgets and reberth sets again: what the plan says of it, and what the report says was lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reberth_hooks.criu.objects import some
from reberth_hooks.protocols import Move
from reberth_hooks.types import Check, Level

MOST_NAMED = 4


def attribute_checks(tree: Mapping[str, Any], here: str, there: str, hello: Mapping[str, Any]) -> Iterator[Check]:
    """Yield a warning for each attribute of its tasks that the copy will not have.

    `here` and `there` are the names of the two nodes, `hello` is what the target says of itself.
    """
    lacks = sorted(set(tree.get("processors", ())) - set(hello["processors"])) if "processors" in hello else []
    if lacks:
        text = f"it is bound to processors that the target lacks: {some(lacks)}"
        yield Check("affinity", Level.WARN, text, "set its processors anew after the move: taskset -p", there)
    personality = tree.get("personality", ())
    if personality:
        text = f"the copy loses the personality of its processes: {some(personality)}"
        yield Check("personality", Level.WARN, text, "start what needs it anew there: setarch", here)


def tell_lost(move: Move, got: Mapping[str, Any]) -> None:
    """Warn of each attribute that the held copy could not be given."""
    lost = [str(word) for word in got.get("lost", ())]
    for word in lost[:MOST_NAMED]:
        move.emit("warning", f"the copy lacks {word}")
    if len(lost) > MOST_NAMED:
        move.emit("warning", f"the copy lacks {len(lost) - MOST_NAMED} more things of this kind")
