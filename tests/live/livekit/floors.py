"""Hooks of pytest that count what really ran, over all workers, and hold it against floor.toml.

tests/conftest.py takes them in, since the process that only hands out tests reads no other conftest.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from livekit import counts, shards, tier

KEY = "reberth_counts"  # in what a worker hands over at its end
COUNTS = counts.Counts()
_handed: Counter[str] = Counter()
_journals = 0


def total() -> Counter[str]:
    """Return what ran here and on all workers that have ended."""
    return COUNTS.total() + _handed


def short_of_floors(found: Counter[str]) -> list[str]:
    """Return a line for each number that is smaller than it must be."""
    return [
        f"{key}: {found[key]}, at least {least} expected"
        for key, least in counts.floors().items()
        if found[key] < least
    ]


def judged(config: pytest.Config) -> bool:
    """Return whether this session was to run all live tests: only then the floors mean something."""
    option = config.option
    chosen = option.keyword or getattr(option, "lf", False) or option.collectonly or is_worker(config)
    return tier.REQUIRED and not chosen and shards.whole(config.args, shards.TESTS)


def is_worker(config: pytest.Config) -> bool:
    """Return whether another process hands out the tests of this one."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts over, or fail where the live tests are required and too few calls were real."""
    if is_worker(session.config):
        session.config.workeroutput[KEY] = {"counts": dict(COUNTS.total()), "journals": len(COUNTS)}  # type: ignore[attr-defined]
    elif judged(session.config) and short_of_floors(total()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker has counted."""
    global _journals
    handed = getattr(node, "workeroutput", {}).get(KEY, {"counts": {}, "journals": 0})
    _handed.update(handed["counts"])
    _journals += handed["journals"]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say how often the real tools ran."""
    found, journals = total(), _journals + len(COUNTS)
    if not journals and not judged(config):
        return
    words = ", ".join(f"{number} {key.replace('_', ' ')}" for key, number in found.items())
    terminalreporter.write_line(f"live: {words or 'nothing'}, in {journals} journals of the nodes")
    if judged(config):
        for line in short_of_floors(found):
            terminalreporter.write_line(f"live: UNDER THE FLOOR: {line}", red=True)
