"""What holds for every test: where all of them are required, a skipped one has failed; tests are dealt to workers."""

from __future__ import annotations

from typing import Any

import pytest
from livekit import shards, tier
from livekit.floors import pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown  # noqa: F401

shards.take_name()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first where several workers share the work."""
    if getattr(config.option, "loadgroup", False):  # what a worker is told of --dist loadgroup
        shards.deal(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What needs one lab stays together."""
    return shards.scheduler(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """With `REBERTH_REQUIRE_LIVE=1` nothing is passed over in silence: a reason to skip is a failure."""
    report: pytest.TestReport = yield
    if tier.REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"REBERTH_REQUIRE_LIVE=1, but {reason}"
    return report
