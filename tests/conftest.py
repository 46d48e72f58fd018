"""What holds for every test: where all of them are required, a skipped one has failed."""

from __future__ import annotations

from typing import Any

import pytest
from livekit import tier


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """With `REBERTH_REQUIRE_LIVE=1` nothing is passed over in silence: a reason to skip is a failure."""
    report: pytest.TestReport = yield
    if tier.REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"REBERTH_REQUIRE_LIVE=1, but {reason}"
    return report
