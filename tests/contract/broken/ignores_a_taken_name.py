"""It does not look whether the target has a container of that name."""

from __future__ import annotations

from typing import Any

import good_backend as good
from good_backend import *  # noqa: F403
from good_backend import Survey, hookimpl

FAILS = "test_a_name_that_is_taken_is_refused"
BECAUSE = "the target has a workload of this name"


@hookimpl
def reberth_survey(workload: Any, target_name: Any, source: Any, target: Any, facts: Any, options: Any) -> Survey:
    got = good.reberth_survey(workload, target_name, source, target, facts, options)
    return Survey((), got.details)
