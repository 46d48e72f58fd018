"""Words for a terminal: safe whatever is in them, and units for people."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


def is_name(text: str) -> bool:
    """Tell whether the text may name a node, workload, plugin or run."""
    return _NAME.fullmatch(text) is not None


def safe(text: object) -> str:
    """Return the text with every character that could steer a terminal turned into its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def safe_lines(text: str) -> list[str]:
    """Return the lines of a tool's output, each safe; tabs become blanks."""
    return [safe(line.expandtabs(4)) for line in text.splitlines()]


def human_bytes(number: float) -> str:
    """Return a size for people, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def human_seconds(seconds: float | None) -> str:
    """Return a time for people; `-` when it is not known."""
    if seconds is None:
        return "-"
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if abs(seconds) < 120 else f"{seconds / 60:.1f} min"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table in columns, each cell safe, an empty one `-`; the head alone when there are no rows."""
    cells = [list(head), *([safe(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
