"""Its preflight writes on the target: whoever only asked for a plan has changed something."""

from __future__ import annotations

from typing import Any

import good_backend as good
from good_backend import *  # noqa: F403
from good_backend import Survey, declaration, hookimpl

FAILS = "test_looking_touches_nothing"
BECAUSE = "/srv/probe"


@hookimpl
def reberth_describe():
    return declaration("mkdir")


@hookimpl
def reberth_survey(workload: Any, target_name: Any, source: Any, target: Any, facts: Any, options: Any) -> Survey:
    target.run(["mkdir", "/srv/probe"])
    return good.reberth_survey(workload, target_name, source, target, facts, options)
