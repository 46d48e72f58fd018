"""Text of open data: dictionaries whose keys are the engine's or a plugin's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reberth.text import safe
from reberth_hooks import plain


def fact_lines(facts: Mapping[str, Any], first: str = "id") -> Iterator[str]:
    """Yield the value of the key `first` as a head, each other fact on a line of its own; what is empty is left out."""
    yield safe(facts.get(first, "-"))
    for key, value in facts.items():
        if key not in (first, "schema") and value not in (None, "", [], {}, ()):
            yield f"  {safe(key):<12} {fact_text(value)}"


def fact_text(value: Any) -> str:
    """One value on one line."""
    value = plain(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{safe(key)} {fact_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(fact_text(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return safe(value)
