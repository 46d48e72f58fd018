"""What the tiers with real nodes (live, vm) have in common: their marks, and what is asked for by the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

REQUIRED = os.environ.get("REBERTH_REQUIRE_LIVE", "0") not in ("", "0")
KEEP = os.environ.get("REBERTH_KEEP_LAB", "0") not in ("", "0")


def mark(items: Iterable[pytest.Item], folder: Path, marker: str, limit_s: float) -> None:
    """Every test below the folder gets the marker, and has time for a slow machine."""
    for item in items:
        if folder in item.path.parents:
            item.add_marker(marker)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(limit_s))


def lab_name(suffix: str) -> str:
    """Not the name of the namespace lab, which may be up at the same time."""
    return (os.environ.get("REBERTH_LAB_NAME") or "live")[: 10 - len(suffix)] + suffix
