"""The source's end of a move: enclose the tasks, dump and fence them, and give them up or let them run again.

The source dies last. Between the vote READY and the end it never wakes without the target's verdict ABORT.
Reason for its length: what the vote forbids and what is done to the tasks share one lock; stage 4 takes of it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any, Callable

from reberth.node.attributes import all as attributes
from reberth.node.criu import network_lock, tcp_repair
from reberth.node.criu.cores import parent_death_signal
from reberth.node.criu.pagemap import check_left, lazy_pages
from reberth.node.criu.stats import read_dump_stats, sizes
from reberth.node.criu.tool import Job
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup, refreeze, still, systemd
from reberth.node.gate import Gate, end_left
from reberth.node.pages.postcopy_source import Serving, stopped, wake
from reberth.node.pages.relay import Channel, no_channel, no_pipe
from reberth.node.runs.enclose import check_fence, enclosed
from reberth.node.runs.peer import Line, what_follows
from reberth.node.runs.run import Run, boot_id, locks_of_others
from reberth.node.survey.written import Beside, content
from reberth.node.system import orphans, procs
from reberth.node.system.durable import boottime_ns, write_all
from reberth.node.system.ends import signal_name
from reberth.node.system.rate_limit import Bucket

OUTLIVES_S, VETO_S = 1.0, 5.0
GONE = "start it again; CRIU works inside the workload, and what dies of a tool that was killed just then is gone"


class Source:
    """State of one run on the source; everything that must outlive this process is in the run's journal."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.job: Job | None = None
        self.serving: Serving | None = None
        self.bucket = Bucket()
        self.channel: Callable[[], Channel] = no_channel  # to the other node's daemon, for pages
        self.pipe: Callable[[], tuple[int, int]] = no_pipe
        self.outflow: Any = None  # an Outflow, where pages go to a page server while they are dumped
        self.guard: refreeze.Guard | None = None
        self.lock = threading.RLock()
        self.stats: dict[str, int] = {}
        self.line: Line | None = None  # what the target's helper says, where the nodes reach each other
        record = run.journal.last("freezing", "enclosed")
        self.cgroup = str(record["cgroup"]) if record else ""

    def unit_hold(self, name: str, pid: int) -> None:
        """Keep the workload's systemd unit from starting it again until the run has its end."""
        systemd.hold(self.run, name, pid)

    def enclose(self, pid: int) -> dict[str, Any]:
        """Move a process tree into a cgroup of its own (enclose.py); returns the cgroup and the processes."""
        found = enclosed(self.run, pid)
        self.cgroup = str(found["cgroup"])
        return found

    def dump(
        self,
        *,
        argv: list[str],
        work: str,
        root_pid: int,
        start_ticks: int,
        path: str = "",
        env: dict[str, str] | None = None,
        config: list[str] | None = None,
        locks_network: bool = False,
        keeps_tcp: bool = False,
        pages: str = "",
        through: str = "",
        header_bytes: int = 0,
        files: dict[str, str] | None = None,
        stall_s: float = 20.0,
    ) -> dict[str, Any]:
        """Freeze, dump and fence; returns when the tasks are held in the `post-dump` script.

        With `pages` they stay behind, and the dump goes on to serve them when the other node asks for the first: by a
        `socket` (`@pages@` in `argv` becomes its number) or a `port` (its address) that no other process can reach.
        With `through` they go to the target's page server meanwhile (`flow_out`). `files` maps places here to places on
        the target: what the tasks have open for writing there is hashed meanwhile (survey/written.py).

        `@hook@` in `argv` or in the lines of `config` (a CRIU configuration file, its path in CRIU_CONFIG_FILE)
        becomes the action script. `locks_network` tells that CRIU sets nft tables of its own: they are answered as
        text, for the target; `keeps_tcp` that it repairs connections, here or in a network of their own. Raises OpError
        `ended`, `tool-failed`, `stalled`; the source runs again then.
        """
        self.cgroup = path or self.cgroup
        if not procs.alive(root_pid, start_ticks):
            raise OpError("ended", f"process {root_pid} has ended")
        if cgroup.is_asked_to_freeze(self.cgroup):
            raise OpError("frozen", "the workload is frozen or paused already", hint="resume it first")
        check_fence(root_pid, self.cgroup)
        keeps_tcp = keeps_tcp or locks_network
        before = network_lock.tables(root_pid) if keeps_tcp else set()
        self.serving = Serving(self.channel(), self.bucket, by_port=pages == "port") if pages else None
        self.flow_out(through, header_bytes)
        started_ns = boottime_ns()
        with self.lock:  # a vote for RESUME comes before this, or finds a tool that it can end
            if self.run.vote() is not None:
                raise OpError("decided", "the source has voted already")
            job = self.job = Job(
                "dump", self.run.dir, work, fence=self.cgroup, keeps_tcp=keeps_tcp, tools=self.run.tools
            )
            variables = dict(env or {})
            if config is not None:
                variables["CRIU_CONFIG_FILE"] = write_config(job, work, config)
            self.run.journal.write(
                "freezing",
                cgroup=self.cgroup,
                argv=argv,
                root_pid=root_pid,
                start_ticks=start_ticks,
                keeps_tcp=keeps_tcp,
                tables=sorted(before),
            )
            words = [w.replace("@hook@", job.script).replace("@cgroup@", self.cgroup) for w in argv]
            self._start(job, words, variables)
            self.run.journal.write("tool", **job.identity())
        try:
            script_pid, _, frozen_ns = job.wait_hook("pre-dump", stall_s=stall_s)
            self.guard = refreeze.of_script(self.cgroup, script_pid) if keeps_tcp else None
            if still.settle(self.cgroup):
                frozen_ns = boottime_ns()
            pids = cgroup.pids(self.cgroup)
            hashing = Beside(lambda: content(pids, files or {}))  # nothing writes any more, and CRIU has work to do
            saving = Beside(lambda: attributes.save(procs.below(root_pid, pids)))
            job.answer("go")
            _, _, held_ns = job.wait_hook("post-dump", stall_s=stall_s)
            sent = self._sent(bool(pages), work)
        except OpError as error:
            with self.lock:
                self._end_dump(job)
            gone = not procs.alive(root_pid, start_ticks)
            self.run.journal.tell("dump-failed", gone=gone)
            if not gone:
                raise
            raise OpError("ended", f"process {root_pid} ended: {error.message}", hint=GONE, tail=error.tail) from error
        self.run.journal.write("held", frozen_ns=frozen_ns, held_ns=held_ns)
        if self.serving is not None:
            self.serving.start(job)
        locks = network_lock.of_images(work, network_lock.tables() - before) if locks_network else set()
        for name in locks:
            self.run.push_undo("always", "nft_delete", name=name)
        return {
            "started_ns": started_ns,
            "frozen_ns": frozen_ns,
            "held_ns": held_ns,
            **sizes(work, sent),
            "lazy_pages": sum(lazy_pages(work).values()) if pages else 0,
            **self._dumped(root_pid, work),
            "files": hashing.result(),
            "attributes": saving.result(),
            "network_lock": network_lock.export(locks),
        }

    def _sent(self, stay: bool, work: str) -> Any:
        """Return what went to the target's page server; raise OpError `pages` when pages that `stay` did not."""
        if stay:
            check_left(work)
        return self.outflow.finish() if self.outflow else None

    def _dumped(self, root_pid: int, work: str) -> dict[str, Any]:
        """Return the processes that stand still, how many of them are the copy's, and the first one's
        parent-death signal.
        """
        pids = cgroup.pids(self.cgroup)
        tree = procs.below(root_pid, pids)
        return {"pids": pids, "tasks": len(tree), "parent_death": signal_name(parent_death_signal(work))}

    def _end_dump(self, job: Job) -> None:
        """End a dump that failed; whatever else fails here, the tasks run."""
        try:
            self._end_flow()
            job.stop()
            self._end_strays(0.0)
            self._heal()
        finally:
            self.thaw()

    def _start(self, job: Job, words: list[str], variables: dict[str, str]) -> None:
        if self.outflow is not None:
            self.outflow.spawn(job, words, env=variables)
        elif self.serving is None:
            job.spawn(words, env=variables)
        else:
            self.run.journal.write("serving", stopped=stopped(self.cgroup))
            self.serving.spawn(job, words, env=variables)

    def flow_out(self, through: str, header_bytes: int) -> Any:
        """Make ready for the pages of one dump to go to the target: by `socket`, `port` or `loopback`
        (pages/page_client.py)."""
        known, self.outflow = self.outflow, None
        if through:
            from reberth.node.pages.page_client import Outflow  # with hashing and sockets, for runs that use it

            self.outflow = Outflow(self.pipe()[1], self.bucket, header_bytes, through, known)
        return self.outflow

    def release(self, how: str, *, aborted: bool = False) -> dict[str, Any]:
        """`kill`: give the source up (only after READY); `resume`: let it run (after READY only when `aborted`).

        Idempotent. Raises OpError `protocol` when the vote forbids it.
        """
        with self.lock:
            return self._kill() if how == "kill" else self._resume(aborted)

    def _kill(self) -> dict[str, Any]:
        vote = self._vote()
        if vote != "READY" and not (vote == "UNREADABLE" and self.run.journal.has("note-given-up")):
            raise OpError("protocol", "the source has not voted READY: it is not given up")
        if self.run.journal.has("resuming"):
            raise OpError("protocol", "the source was let run again: it is not given up")
        if not self.run.journal.has("released"):
            self.run.journal.write("releasing")
            if self.guard:
                self.guard.off()
            code = self._finish("go", 60.0)
            if self.job and self.serving is None:  # CRIU starts its counters anew when it serves pages
                self.stats = read_dump_stats(os.path.join(self.job.work_dir, "stats-dump"))
            if self.cgroup and not cgroup.kill(self.cgroup):
                raise OpError("leftover", f"tasks in {self.cgroup} survived", hint="recover again when they have ended")
            self.run.journal.write("released", code=code, failed=self.run.undo("commit", "always"))
        return self.facts()

    def _resume(self, aborted: bool) -> dict[str, Any]:
        vote = self._vote() or self.run.cast_vote("RESUME")
        if vote != "RESUME" and not aborted:
            raise OpError("protocol", "the source voted READY: it runs again only when the target says ABORT")
        if self.run.journal.has("releasing"):
            raise OpError("protocol", "the source was given up: it never runs again")
        if not self.run.journal.has("resumed"):
            if not self.run.journal.has("resuming"):
                self.run.journal.tell("resuming", vote=vote, aborted=aborted)
            try:  # CRIU's network lock goes when the tool is answered: from then on everything must be as it was.
                failed = self.run.undo("back")
                code = self._finish("veto", 30.0)
                self._end_left()
                self._heal()
            finally:  # what fails above is tried again while the tasks run
                self.thaw()
            tasks = self._tasks() if code is not None and code >= 0 else self._outlived()
            failed += self.run.undo("abort", "always")
            self.run.journal.tell("resumed", code=code, tasks=tasks, failed=failed)
        return self.facts()

    def _finish(self, word: str, timeout_s: float) -> int | None:
        """Answer the waiting script and wait for the tool's end; a tool that is not waiting is ended with SIGTERM."""
        self._end_flow()
        if self.job is None:  # of an earlier helper: what it started may still work on the tasks
            self._end_strays(0.0)
            return None
        if isinstance(self.job, Gate):
            return self.job.finish(word, timeout_s)
        if self.job.waiting:
            self.job.answer(word)
            if self.serving is not None:
                self.serving.dismiss()
            code = self.job.wait_end(timeout_s)
        else:
            if word == "veto":
                self.job.answer(word)  # a killed runc leaves its criu, whose script may come only now
            code = self.job.wait_end(10.0 if self.serving is not None else VETO_S)  # killed, it may cost the tasks
        if code is None:
            self.job.stop()
        self._end_strays(5.0)  # a killed runc leaves its criu, which does as it was answered
        return code

    def _end_left(self) -> None:
        """A daemon's criu whose gate died with its helper still holds the tasks."""
        fencing = self.run.journal.last("fencing")
        if self.job is None and fencing is not None:
            end_left(*fencing["tool"])

    def _end_flow(self) -> None:
        """No page is served or sent any more."""
        if self.outflow is not None:
            self.outflow.end()
        if self.serving is not None:
            self.serving.end()

    def _end_strays(self, patience_s: float) -> None:
        ended = orphans.end(self.run.id, self.run.tools, patience_s=patience_s)
        if ended:
            self.run.journal.tell("strays", tasks=[task._asdict() for task in ended])

    def _heal(self) -> None:
        """Make connections work that a killed CRIU left locked and in repair mode; the tasks are fenced meanwhile."""
        record = self.run.journal.last("freezing")
        if not record or not record.get("keeps_tcp") or not procs.alive(record["root_pid"], record["start_ticks"]):
            return
        with contextlib.suppress(OpError, OSError):
            cgroup.freeze(self.cgroup, 2.0)
        pids, root = cgroup.pids(self.cgroup), record["root_pid"]
        healed = tcp_repair.sockets(pids)
        new = network_lock.tables(root) - set(record["tables"]) - locks_of_others(self.run.id)
        tables = network_lock.of_connections(new, tcp_repair.connections(pids), root) if new else new
        for name in tables:
            network_lock.delete(name, root)
        if healed or tables:
            self.run.journal.tell("healed", sockets=healed, tables=sorted(tables))

    def thaw(self) -> None:
        if self.guard:
            self.guard.off()
        if self.cgroup and os.path.isdir(self.cgroup) and self.run.journal.has("freezing"):
            if self.run.journal.has("serving"):
                wake(self.cgroup, (self.run.journal.last("serving") or {})["stopped"])
            cgroup.thaw(self.cgroup)

    def _holds(self) -> bool:
        """Tell whether the tool holds the tasks: in its script, or since then as the server of their pages."""
        return bool(self.job and (self.job.fences or (self.serving and self.serving.holds(self.job))))

    def _outlived(self) -> int:
        """Return how many tasks live on after a killed tool.

        It may have left one damaged, which dies when it runs again.
        """
        end_s = time.monotonic() + OUTLIVES_S
        while self._tasks() and time.monotonic() < end_s:
            time.sleep(0.01)
        return self._tasks()

    def _tasks(self) -> int:
        """Return how many processes there are to run."""
        return len([p for p in cgroup.pids(self.cgroup) if procs.alive(p)]) if self.cgroup else 0

    def _gone(self) -> bool:
        """Tell whether the tasks ended by themselves after the freeze had begun, or with their node at any time."""
        resumed = self.run.journal.last("resumed")
        tasks = resumed.get("tasks", 1) if resumed else self._tasks()
        begun = self.run.journal.has("freezing") or self._ended_with_the_node()
        return begun and not self.run.journal.has("releasing") and not tasks

    def _vote(self) -> str | None:
        try:
            return self.run.vote()
        except OpError:
            return "UNREADABLE"

    def _ended_with_the_node(self) -> bool:
        return bool(self.run.opened("boot_id", boot_id()) != boot_id())

    def facts(self) -> dict[str, Any]:
        """Return what is so now: the one thing that `recover` and the engine decide from."""
        return {
            "role": "source",
            "vote": self._vote(),
            "ended": self.run.ended,
            "froze": self.run.journal.has("freezing"),
            "held": self.run.journal.has("held"),
            "released": self.run.journal.has("released"),
            "resumed": self.run.journal.has("resumed"),
            "tasks": self._tasks(),
            "gone": self._gone(),
            "rebooted": self._ended_with_the_node(),
            "lost": self.run.is_lost(),
            "frozen": bool(self.cgroup) and cgroup.is_asked_to_freeze(self.cgroup),
            "holding": self._holds(),
            "cgroup": self.cgroup,
            "stats": self.stats,
        }

    def abandoned(self) -> bool:
        """Tell whether the journal is lost.

        This helper can neither vote nor be found, and the fence stays without it.
        """
        return self.run.is_lost()

    def _left_a_copy(self) -> bool:
        """Tell whether the node restarted when the dump was whole and nothing was decided against the copy."""
        over = self._vote() == "RESUME" or self.run.journal.has("released") or self.run.journal.has("resumed")
        return self._ended_with_the_node() and self.run.journal.has("held") and not over

    def lost(self) -> bool:
        """Act without the controller: before READY the source runs again, after it the line to the target decides.

        True when the run has ended, or when nothing is left here to act on: the tasks went with their node after the
        dump was whole, so the target may hold the only copy, and a vote for RESUME would end it.
        """
        if self.run.ended or self._left_a_copy():
            return True
        with contextlib.suppress(OpError, OSError):
            if self.run.journal.has("released"):
                self.run.end("moved")
                return True
            if self.run.vote() == "READY" and not self.run.journal.has("resumed"):
                return self._follow()
            self.release("resume", aborted=self.run.journal.has("resumed"))
            if self.run.daemon_works():
                return False  # asked again in a second
            self.run.end("rolled-back")
            return True
        return False

    def _follow(self) -> bool:
        """Do what the target's own word allows; without one the workload stays held."""
        heard = self.line.heard if self.line else None
        step = what_follows(heard) if heard else ""
        if not step or (step == "kill" and self.run.journal.has("note-verify")):
            return False  # a copy that is not verified yet does not end the source
        self.run.journal.write("following", step=step, verdict=heard and heard.get("verdict"))
        self.release(step, aborted=step == "resume")
        self.run.end("moved" if step == "kill" else "rolled-back")
        return True


def write_config(job: Job, work: str, lines: list[str]) -> str:
    """Return a CRIU configuration file for this one call, in the run's private directory."""
    path = os.path.join(work, f"{job.name}.conf")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, "".join(line.replace("@hook@", job.script) + "\n" for line in lines).encode())
    finally:
        os.close(fd)
    return path
