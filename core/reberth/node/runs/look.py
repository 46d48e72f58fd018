"""Does the copy live? A look at it a moment after it began to run, before the source may be given up.

A copy can die of its new surroundings at once: of a parent-death signal as criu ends, of an instruction that this
processor lacks, of a system call that a filter forbids. criu's exit status tells none of that. So the first process
must be there LOOK_S after the thaw, and must have been on the processor since; no other restored process may have died
of a signal that tells of wrong surroundings. Children that end otherwise are the workload's own affair.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterable
from typing import Any

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.runs.run import Run
from reberth.node.system import procs
from reberth.node.system.durable import boottime_ns
from reberth.node.system.ends import exit_status, how_ended, words_of

# A signal that was pending strikes before the first instruction; a wrong processor, filter or library within the first
# milliseconds of running. On a busy node these come late, so a copy that has not been on the processor has more time.
LOOK_S, MOST_S, SLICE_S = 0.05, 0.15, 0.01
MOST_WATCHED = 256  # descriptors of the helper, of which a node allows 1024
SURROUNDINGS = (signal.SIGILL, signal.SIGBUS, signal.SIGSEGV, signal.SIGSYS)


class Look:
    """The look at one copy, journaled: `looked`, or `look-failed` with what was wrong."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._fds: dict[int, int] = {}  # process -> its pidfd
        self._turns = -1  # how often the first process had been on the processor before it was thawed
        self._lock = threading.Lock()

    def hold(self, init: int, pids: Iterable[int]) -> None:
        """Remember these processes while they stand still: what they come to is told by their descriptors."""
        if self._fds:
            return
        for pid in [init, *(pid for pid in pids if pid != init)][:MOST_WATCHED]:
            with contextlib.suppress(OSError):
                self._fds[pid] = os.pidfd_open(pid)
        self._turns = turns(init)

    def watch(self, group: str) -> None:
        """Look by ourselves: the look must not be late because it is not asked for."""

        def run() -> None:
            with contextlib.suppress(OpError, OSError):
                self.look(group)

        threading.Thread(target=run, daemon=True).start()

    def look(self, group: str) -> None:
        """Wait for the moment and judge; raises OpError `ill` with what the copy died of, now and whenever asked."""
        with self._lock:
            if self.run.journal.has("looked"):
                return
            if not self.run.journal.has("look-failed"):
                running, held = self.run.journal.last("running"), self.run.journal.last("copy-held")
                if running is None or held is None:
                    raise OpError("protocol", "the copy does not run yet")
                problem = self._problem(held["init"], held.get("start_ticks", 0), running["running_ns"], group)
                self._close()
                if not problem:
                    self.run.journal.tell("looked")
                    return
                self.run.journal.tell("look-failed", message=problem)
                with contextlib.suppress(OSError):  # what is left of it stands still, as its source does
                    cgroup.ask_freeze(group)
            raise OpError("ill", (self.run.journal.last("look-failed") or {})["message"], hint=self._hint())

    def ended(self, pids: Iterable[int]) -> str:
        """Return which of these processes are gone, and how the first of them ended; empty when all are there."""
        gone = [pid for pid in pids if not procs.alive(pid)]
        if not gone:
            return ""
        more = f", and {len(gone) - 1} more" if len(gone) > 1 else ""
        return f"process {gone[0]} of the copy {how_ended(self._fds.get(gone[0], -1), gone[0])}{more}"

    def facts(self) -> dict[str, Any]:
        """`unseen`: it runs and was not looked at yet; `ill`: it did not live, and `ailment` says what was seen."""
        failed, looked = self.run.journal.last("look-failed"), self.run.journal.has("looked")
        found = {"unseen": self.run.journal.has("running") and not looked and not failed, "ill": bool(failed)}
        return {**found, "ailment": failed["message"]} if failed else found

    def _problem(self, init: int, start_ticks: int, running_ns: int, group: str) -> str:
        fd = self._fds.get(init, -1)
        self._wait(fd, init, running_ns)
        after_ms = (boottime_ns() - running_ns) // 1_000_000
        if not procs.alive(init, start_ticks):
            oom = ", for lack of memory in its cgroup" if _oom_kills(group) else ""
            return f"the copy's first process {init} {how_ended(fd, init)}{oom}, seen {after_ms} ms after it ran"
        filling = self.run.journal.has("lazy") and not self.run.journal.has("filled")
        if fd >= 0 and not filling and cgroup.is_asked_to_freeze(group):
            return f"the copy is frozen again, {after_ms} ms after it ran"
        for pid, other in self._fds.items():
            if not procs.alive(pid):
                status = exit_status(other, pid)
                if status is not None and status & 0x7F in SURROUNDINGS:
                    return f"process {pid} of the copy {words_of(status)}, seen {after_ms} ms after it ran"
        return ""

    def _wait(self, fd: int, init: int, running_ns: int) -> None:
        """Until the moment has come, or the first process has ended; without its descriptor the moment is past."""
        if fd < 0:
            return
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while True:
            age_s = (boottime_ns() - running_ns) / 1e9
            if age_s >= MOST_S or (age_s >= LOOK_S and turns(init) != self._turns):
                return
            if poll.poll(max(SLICE_S, LOOK_S - age_s) * 1000):
                return

    def _hint(self) -> str:
        run = self.run.id
        return (
            f"the source is frozen and complete; to let it run again: reberth recover {run} --rollback; "
            f"if the workload has done its work: reberth recover {run} --forward"
        )

    def _close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])


def turns(pid: int) -> int:
    """Return how often a process's first thread has left the processor so far; -1 when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as lines:
        return sum(int(line.split()[1]) for line in lines if "_ctxt_switches:" in line)
    return -1


def _oom_kills(group: str) -> int:
    path = os.path.join(group, "memory.events")
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0
