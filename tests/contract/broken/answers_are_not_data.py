"""What it found out cannot be written down, so nobody could recover the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import good_backend as good
from good_backend import *  # noqa: F403
from good_backend import Survey, hookimpl

FAILS = "test_looking_touches_nothing"
BECAUSE = "not JSON serializable"


@hookimpl
def reberth_survey(workload: Any, target_name: Any, source: Any, target: Any, facts: Any, options: Any) -> Survey:
    got = good.reberth_survey(workload, target_name, source, target, facts, options)
    return Survey(got.checks, {**got.details, "place": Path("/srv")})
