"""Both ends of a move whose criu a daemon starts (LXD, Incus): the gate is planted, and what it holds is taken over."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

from reberth.node import unixhttp
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.gate import Gate, dumped
from reberth.node.runs.enclose import check_fence
from reberth.node.runs.source import Source
from reberth.node.runs.target import Target
from reberth.node.system import procs
from reberth.node.system.durable import boottime_ns
from reberth.node.system.spawn import first_errors

INSTANCE_RUNS, OVER = 103, 200  # status codes of LXD and Incus; up to 200 an operation has not failed


def gate_source(end: Source, *, leaf: str, root_pid: int, start_ticks: int, pauses: bool) -> None:
    """Plant the script for the criu that a daemon will start; `leaf` names the container's cgroup.

    With `pauses` the first dump waits for `gate_begin`: then the daemons have sent all files once, and none again.
    Raises OpError `ended`, `frozen`, `fence` as `dump` does.
    """
    if not procs.alive(root_pid, start_ticks):
        raise OpError("ended", f"process {root_pid} has ended")
    end.cgroup = cgroup.up_to(cgroup.of_pid(root_pid), leaf)
    if cgroup.is_asked_to_freeze(end.cgroup):
        raise OpError("frozen", "the workload is frozen or paused already", hint="resume it first")
    check_fence(root_pid, end.cgroup)
    with end.lock:
        if end.run.vote() is not None:
            raise OpError("decided", "the source has voted already")
        job = end.job = Gate("source", end.run.dir, leaf, fence=end.cgroup, pauses=pauses, root_pid=root_pid)
        end.run.push_undo("end", "gate_pluck", path=job.script)
        end.run.journal.write("freezing", cgroup=end.cgroup, root_pid=root_pid, start_ticks=start_ticks)
        job.plant()


def gate_paused(end: Source) -> bool:
    """Tell whether the daemon's criu waits to begin its first dump, and it is its turn.

    The container runs meanwhile.
    """
    return isinstance(end.job, Gate) and end.job.holds("pre-dump") and end.job.has_turn()


def gate_begin(end: Source) -> None:
    """Let it begin. Raises OpError `tool-failed` when it does not wait: it is gone, or was ended."""
    if not isinstance(end.job, Gate) or not end.job.begin():
        raise OpError("tool-failed", "the daemon's criu does not wait to begin")


def fence(end: Source) -> dict[str, Any]:
    """Freeze what the daemon's criu holds: the daemon does not; return what `dump` does, as far as it can be known.

    Raises OpError `tool-failed` when that criu has not come or is gone: then the tasks are not touched.
    """
    with end.lock:
        job = end.job
        if not isinstance(job, Gate) or not job.frozen_ns or not job.runs:
            raise OpError("tool-failed", "the daemon's criu does not hold the container")
        if end.run.vote() is not None:
            raise OpError("decided", "the source has voted already")
        end.run.journal.write("fencing", tool=job.tool)
        cgroup.freeze(end.cgroup)
        if not job.runs:
            end.thaw()
            raise OpError("tool-failed", "the daemon's criu ended while the container was fenced")
        job.fenced, held_ns = True, boottime_ns()
        end.run.journal.write("held", frozen_ns=job.frozen_ns, held_ns=held_ns)
        job.end_turn()
        found = dumped(procs.command_line(job.pid))
        return {"frozen_ns": job.frozen_ns, "held_ns": held_ns, "pids": cgroup.pids(end.cgroup), **found}


def gate_target(end: Target, *, leaf: str, worker: list[str]) -> None:
    """Plant the script for the criu that a daemon will start; `leaf` names the container's cgroup.

    `worker` are the words after its name by which the daemon's process that starts criu is known.
    """
    if end.run.verdict() is not None:
        raise OpError("decided", "this run has a verdict already")
    end.run.journal.write("restoring", cgroup="", leaf=leaf)
    job = end.job = Gate("target", end.run.dir, leaf, worker)
    end.run.push_undo("end", "gate_pluck", path=job.script)
    job.plant()


def gate_hold(end: Target) -> dict[str, Any] | None:
    """Return the copy that the daemon's criu has built and our script holds; None as long as there is none.

    Raises OpError `tool-failed` when that criu was there and is gone without having come so far, or was refused images
    that lack pages.
    """
    with end.lock:
        job = end.job
        if not isinstance(job, Gate) or end.run.verdict() is not None:
            return None
        if job.damage:
            hint = "was the target's TMPDIR full, or the daemon disturbed? look there, then move it again"
            raise OpError("tool-failed", "the images did not arrive whole", hint=hint, tail=job.damage)
        if not job.holds("post-restore"):
            if line := job.worker.failed():
                logs = [os.path.join(word, "restore.log") for word in line if word.startswith("/")]
                raise OpError("tool-failed", "the daemon's criu did not restore it", tail=first_errors(*logs))
            return None
        end.script_pid, init, held_ns = job.met
        end.cgroup = cgroup.up_to(cgroup.of_pid(init), job.leaf)
        end.run.push_undo("abort", "cgroup_kill", path=end.cgroup)
        return {**end.held(init), "started_ns": 0, "held_ns": held_ns}


def passed(end: Source) -> tuple[str, str]:
    """Tell whether the source's daemon lives and has heard of the target's success: before that our script is not
    asked.

    CRIU asks ours also when the daemon's own one has failed, as it does when its daemon dies. `ended`: it has given its
    part up, as it does when the target's daemon dies; then the target alone tells how the copy ends.
    """
    record, job = end.run.journal.last("daemon"), end.job
    if record is None or not isinstance(job, Gate):
        return "good", ""  # a helper that died: it cannot be told any more
    code, said = unixhttp.operation(record["socket"], record["url"])
    if code is None:
        return "open", said
    if not code or code > OVER:
        return "ended", said or "the source's daemon has ended its part"
    return ("good", "") if job.holds("post-dump") else ("open", "the source's daemon has not heard of a success")


def settled(end: Target, name: str) -> tuple[str, str]:
    """Tell whether the daemon stands by the running copy: good, ended, undone or open, with the problem in words.

    Its operation ends only after the source's daemon is through (LXD 5.0.2), so one that goes on is good; when that
    daemon has died, this one undoes the copy within a moment. Ended: the copy runs, and no operation is left that could
    undo it, as after a restart of this daemon. Open: it does not answer, or says that it failed
    while the instance runs. LXD forgets an operation seconds after its end; then the instance alone tells.
    """
    record = end.run.journal.last("daemon")
    if record is None:
        raise OpError("protocol", "no daemon's operation is known here")
    return _look(record["socket"], record["url"], name)


def _look(socket: str, url: str, name: str) -> tuple[str, str]:
    code, said = unixhttp.operation(socket, url)
    if code is None:
        return "open", said
    answer = unixhttp.metadata(socket, f"/1.0/instances/{quote(name, safe='')}")
    if answer is None:
        return "open", "it does not answer"
    runs = answer.get("status_code") == INSTANCE_RUNS
    if code <= OVER:
        if not runs:
            return "undone", f"{name} is {answer.get('status', 'not there')}"
        return "ended" if code in (0, OVER) else "good", ""
    return ("open", said) if runs else ("undone", said)
