"""One round of pre-copy: what the workload has written since the last round, dumped while it runs on.

The tool freezes it for a moment by itself. Whatever goes wrong here, the workload runs: CRIU lets it go when it ends.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Callable

from reberth.node.criu.stats import read_dump_stats
from reberth.node.criu.tool import Job
from reberth.node.errors import OpError
from reberth.node.operations.context import end_of, source_of
from reberth.node.runs.target import Target
from reberth.node.system import procs

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon


def pre_dump(
    daemon: Daemon,
    progress: Any,
    argv: list[str],
    work: str,
    root_pid: int,
    start_ticks: int,
    through: str = "",
    header_bytes: int = 0,
    stall_s: float = 20.0,
) -> dict[str, Any]:
    """Run the tool to its end in the new directory `work`; returns its counters, `bytes` and `seconds`.

    With `through` the pages go to the target's page server meanwhile (`Source.flow_out`), and `sent` tells of them.
    Raises OpError `ended`, `tool-failed`, `stalled`.
    """
    end = source_of(daemon)
    if not procs.alive(root_pid, start_ticks):
        raise OpError("ended", f"process {root_pid} has ended")
    os.mkdir(work, 0o700)
    started_s = time.monotonic()
    job = Job("pre-dump", end.run.dir, work, tools=end.run.tools)
    flow = end.flow_out(through, header_bytes)
    try:
        if flow is not None:
            flow.spawn(job, argv)
        else:
            job.spawn(argv)
        code = job.run_to_end(stall_s)
    finally:
        job.close()
        if flow is not None and job.wait_end(0.0) != 0:
            flow.end()
    if code != 0:
        gone = not procs.alive(root_pid, start_ticks)
        text = f"process {root_pid} has ended" if gone else f"pre-dump ended with {code}"
        raise OpError("ended" if gone else "tool-failed", text, tail=job.errors())
    sent = flow.finish() if flow is not None else None
    pages = [os.path.getsize(os.path.join(work, name)) for name in os.listdir(work) if name.startswith("pages-")]
    return {
        **read_dump_stats(os.path.join(work, "stats-dump")),
        "bytes": sum(pages) + (sent["bytes"] if sent else 0),
        "sent": sent,
        "seconds": time.monotonic() - started_s,
    }


def parent_link(daemon: Daemon, progress: Any, directory: str, parent: str, complete: bool = False) -> None:
    """On the target: say that the images of one round build on those of another; CRIU's own link never travels.

    Those of a round that is `complete` are read beside what follows: the restore has to know them, and has no time.
    """
    end = end_of(daemon)
    if os.path.isabs(parent) or not os.path.isdir(os.path.join(directory, parent)):
        raise OpError("bad-argument", f"{parent!a} is no directory beside {directory!a}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, "parent"))
    os.symlink(parent, os.path.join(directory, "parent"))
    if complete and isinstance(end, Target):
        end.past.learn(directory)


OPS: dict[str, Callable[..., Any]] = {"pre_dump": pre_dump, "parent_link": parent_link}
