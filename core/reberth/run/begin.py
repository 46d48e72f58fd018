"""The beginning of a run: an id that no other run of this controller has, and the first records of its journal."""

from __future__ import annotations

import shutil
from dataclasses import replace

from reberth.config.version import version
from reberth.node.system.durable import lay_reserve
from reberth.node.system.formats import FORMAT
from reberth.plan.planner import run_id
from reberth.run import journal as journals
from reberth.run.journal import DiskError, Journal
from reberth_hooks import Plan, plain

RESERVE_BYTES = 256 << 10


def begin(plan: Plan) -> tuple[Plan, Journal]:
    """Return the plan, with another id where a run of the same second has drawn the same four digits, and its journal.

    Space is kept for the rest of the journal and for the report: the disk may fill up while the workload is frozen.
    Raises UsageError or RefusedError when the state folder does not take them; nothing was touched then.

    Of a hundred moves that a script starts in one second two draw the same in one of fourteen tries.
    """
    place = journals.make_runs_dir()
    while True:
        try:
            (place / plan.id).mkdir(mode=0o700)
            break
        except FileExistsError:
            plan = replace(plan, id=run_id())
        except OSError as error:
            raise journals.unusable(place, error) from error
    journal = Journal(plan.id)
    try:
        lay_reserve(str(journal.dir), RESERVE_BYTES)
        journal.write("plan", format=FORMAT, version=version(), plan=plain(plan))
        journal.claim()
    except (OSError, DiskError) as error:
        shutil.rmtree(journal.dir, ignore_errors=True)
        cause = error if isinstance(error, OSError) else error.__cause__
        raise journals.unusable(place, cause if isinstance(cause, OSError) else OSError(str(error))) from error
    return plan, journal
