"""The beginning of a run: an id that no other run of this controller has, and the first records of its journal."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from reberth.config.version import version
from reberth.node.system.formats import FORMAT
from reberth.plan.planner import run_id
from reberth.run import journal as journals
from reberth.run.journal import Journal
from reberth_hooks import Plan, plain


def begin(plan: Plan) -> tuple[Plan, Journal]:
    """The plan, with another id where a run of the same second has drawn the same four digits, and its journal.

    Of a hundred moves that a script starts in one second two draw the same in one of fourteen tries.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            (journals.runs_dir() / plan.id).mkdir(mode=0o700)
            break
        plan = replace(plan, id=run_id())
    journal = Journal(plan.id)
    journal.write("plan", format=FORMAT, version=version(), plan=plain(plan))
    journal.claim()
    return plan, journal
