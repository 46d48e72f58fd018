"""State that CRIU forgets and reberth sets again: what the plan says of it, and what the report says was lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reberth_hooks.protocols import Move, Shell
from reberth_hooks.types import Check, Level

MOST_NAMED = 4


def attribute_checks(tree: Mapping[str, Any], source: Shell, target: Shell) -> Iterator[Check]:
    """Yield a warning for each attribute of its tasks that the copy will not have."""
    pinned, there = set(tree.get("processors", ())), target.call("taken").get("processors")
    lacks = sorted(pinned - set(there)) if there else []
    if lacks:
        text = f"it is bound to processors that the target lacks: {', '.join(map(str, lacks))}"
        remedy = "set its processors anew after the move: taskset -p"
        yield Check("affinity", Level.WARN, text, remedy, target.node.name)
    personality = tree.get("personality", ())
    if personality:
        text = f"the copy loses the personality of its processes: {', '.join(personality[:MOST_NAMED])}"
        yield Check("personality", Level.WARN, text, "start what needs it anew there: setarch", source.node.name)


def tell_lost(move: Move, got: Mapping[str, Any]) -> None:
    """Warn of each attribute that the held copy could not be given."""
    lost = [str(word) for word in got.get("lost", ())]
    for word in lost[:MOST_NAMED]:
        move.emit("warning", f"the copy lacks {word}")
    if len(lost) > MOST_NAMED:
        move.emit("warning", f"the copy lacks {len(lost) - MOST_NAMED} more things of this kind")
