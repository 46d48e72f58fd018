"""What the tiers with real nodes (live, vm) have in common: their marks, and that a required test is never skipped."""

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


def without_skip(report: pytest.TestReport, item: pytest.Item, folder: Path) -> pytest.TestReport:
    """The report, turned into a failure if a test below the folder was skipped where it is required."""
    if REQUIRED and report.skipped and folder in item.path.parents:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"REBERTH_REQUIRE_LIVE=1, but {reason}"
    return report
