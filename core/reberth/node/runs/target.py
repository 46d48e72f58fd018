"""The target's end of a move: restore and hold, then land on PERMIT or take everything back on ABORT.

Reason for its length: the ways of one copy share one lock and one journal, and are read together.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, Callable

from reberth.node.attributes.all import set_again
from reberth.node.criu import leftovers, parents
from reberth.node.criu import network_lock as netlock
from reberth.node.criu.tool import Job
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.gate import Gate
from reberth.node.net import loopback as netdev
from reberth.node.pages.fill import Fill, Guardian
from reberth.node.pages.prefetch import Prefetch
from reberth.node.pages.relay import Channel, no_channel, no_pipe
from reberth.node.runs.look import Look
from reberth.node.runs.peer import Line
from reberth.node.runs.run import Run, boot_id, open_runs
from reberth.node.runs.source import write_config
from reberth.node.survey.written import Beside, check
from reberth.node.system import free_memory, orphans, procs
from reberth.node.system.durable import boottime_ns, write_whole
from reberth.node.system.ends import kernel_tells
from reberth.node.system.rate_limit import Bucket

if TYPE_CHECKING:
    from reberth.node.pages.page_server import Inflow

NO_STATUS = "this kernel does not tell how a process ended that init has adopted: a parent-death signal cannot be kept"


class Target:
    """State of one run on the target."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.job: Job | None = None
        self.let_go, self.script_pid = False, 0
        self.fenced = False  # the copy is complete, without its tool, and frozen
        self.filling, self.looking = Fill(run), Look(run)
        self.guardian: Guardian | None = None
        self.past = parents.Past()
        self.inflow: Inflow | None = None  # of the newest round whose pages came through a page server
        self.bucket = Bucket()
        self.pipe: Callable[[], tuple[int, int]] = no_pipe
        self.channel: Callable[[], Channel] = no_channel  # to the source's page server
        self.line: Line | None = None  # what the source's helper says, where the nodes reach each other
        self.lock = threading.RLock()
        record = run.journal.last("restoring", "copy-held")
        self.cgroup = str(record["cgroup"]) if record else ""

    def restore(
        self,
        *,
        argv: list[str],
        work: str,
        own_cgroup: bool,
        path: str = "",
        env: dict[str, str] | None = None,
        config: list[str] | None = None,
        network_lock: str = "",
        loopback: bool = False,
        lazy: bool = False,
        header_bytes: int = 0,
        follow: bool = True,
        tasks: int = 0,
        adopted: bool = False,
        files: list[dict[str, Any]] | None = None,
        attributes: dict[str, Any] | None = None,
        stall_s: float = 30.0,
    ) -> dict[str, Any]:
        """Build the copy and hold it in the `post-restore` script: a failure there is a clean veto, later it is not.

        With `own_cgroup` the tool starts inside a cgroup of this run, else the tool makes one at `path` (runc) and puts
        itself into it: tool and script are moved out before the copy may run. With `header_bytes` (of a page message of
        CRIU) pages follow the copy: those of earlier rounds from here, and with `follow` the rest from the source.
        `tasks` is how many processes were dumped. `adopted`: the tool is a child of init, as a first process with a
        parent-death signal would die of the end of its parent. `files` must hold here what they hold on the source.
        `attributes` is what the dump saved since CRIU forgets it; `lost` of the answer names what cannot be set again.
        Raises OpError `decided`, `tool-failed`, `images`, `tasks`, `parent-death`, `files`.
        """
        if self.run.verdict() is not None:
            raise OpError("decided", "this run has a verdict already")
        if adopted and not kernel_tells():
            raise OpError("parent-death", NO_STATUS, hint="a kernel from 6.15 on there")
        self._claim(os.path.join(cgroup.mount_point(), f"reberth-{self.run.id}") if own_cgroup else path)
        needs_source = bool(header_bytes and follow)
        self.run.journal.write("restoring", cgroup=self.cgroup, argv=argv, needs_source=needs_source)
        self.run.push_undo("always", "criu_roots", known=leftovers.roots())
        self._lock_network(network_lock)
        if own_cgroup:
            cgroup.create(self.cgroup)
        held = ["post-setup-namespaces"] if loopback else []
        others = " | ".join([*held, "post-restore", "pre-resume"])
        job = self.job = Job("restore", self.run.dir, work, others=others, tools=self.run.tools)
        variables = dict(env or {})
        if config is not None:
            variables["CRIU_CONFIG_FILE"] = write_config(job, work, config)
        started_ns = boottime_ns()
        comparing = Beside(lambda: check(files or []))
        flow = None
        if header_bytes:
            channel = self.channel() if follow else None
            flow = Prefetch(channel, header_bytes, parents.join(work, self.past))
        self.filling.start(work, lazy, flow, self.guardian if flow else None)
        words = [w.replace("@hook@", job.script) for w in argv]
        job.spawn(words, env=variables, cgroup=self.cgroup if own_cgroup else "", adopted=adopted)
        self.run.journal.write("tool", **job.identity())
        with self.lock:
            if self.run.verdict() is not None:  # ABORT came meanwhile and found no tool to end
                job.stop()
                self.run.undo("abort", "always")
                raise OpError("decided", "this run has a verdict already")
        if loopback:
            _, init, _ = job.wait_hook("post-setup-namespaces", stall_s=stall_s)
            netdev.set_up(init)
            job.answer("go")
        try:
            self.script_pid, init, held_ns = job.wait_hook("post-restore", stall_s=stall_s)
        finally:
            comparing.result()  # a file that differs is the cause of what CRIU says of it
        if self.cgroup != cgroup.of_pid(init):
            self.cgroup = cgroup.of_pid(init)
            self.run.push_undo("abort", "cgroup_kill", path=self.cgroup)
        copy = self.held(init, tasks)
        lost = set_again(procs.below(init, cgroup.pids(self.cgroup)), attributes) if attributes else []
        return {**copy, "started_ns": started_ns, "held_ns": held_ns, "lost": lost}

    def held(self, init: int, tasks: int = 0) -> dict[str, Any]:
        """Make sure that the copy is complete and waits in `post-restore`, and write it down.

        Raises OpError `tasks` when it has fewer processes than the source had at the freeze (`tasks`; 0: not known).
        """
        self._move_out(self.script_pid)
        if cgroup.inside(cgroup.of_pid(os.getpid()), self.cgroup) or cgroup.inside(self.run.tools, self.cgroup):
            raise OpError("fence", f"the copy shares the cgroup {self.cgroup} with this helper or its tools")
        write_whole(os.path.join(self.run.dir, "fence"), self.cgroup + "\n")  # for the script, should we be gone
        pids = cgroup.pids(self.cgroup)
        self.filling.guard(sum(1 for pid in pids if procs.alive(pid)))
        tree = procs.below(init, pids)
        if len(tree) < tasks:
            raise OpError("tasks", f"{tasks} processes were dumped, the copy has {len(tree)}")
        self.looking.hold(init, tree)
        first = procs.task(init)
        ticks = first.start_ticks if first else 0
        self.run.journal.write("copy-held", cgroup=self.cgroup, init=init, start_ticks=ticks, pids=pids, tree=tree)
        return {"pid": init, "tasks": len(pids), "cgroup": self.cgroup}

    def guard(self) -> None:
        """Start the guardian of a copy to come; what kills the copy waits for its end."""
        self.guardian = Guardian()
        task = procs.task(self.guardian.process.pid)
        ticks = task.start_ticks if task else 0
        self.run.journal.write("guardian", pid=self.guardian.process.pid, start_ticks=ticks)

    def _claim(self, path: str) -> None:
        """Claim the copy's cgroup while it is empty: a restore that dies early leaves its half-made tasks there."""
        if path and not cgroup.events(path).get("populated"):
            self.cgroup = path
            self.run.push_undo("abort", "cgroup_kill", path=path)

    def _lock_network(self, text: str) -> None:
        """The source's lock stands here before the first connection is restored, which CRIU then takes away."""
        for name in netlock.names_in(text):
            self.run.push_undo("always", "nft_delete", name=name)
        if text:
            netlock.load(text)

    def discard(self) -> dict[str, Any]:
        """Kill a copy that cannot go on, or is not well, on the operator's word: what it did since is lost."""
        with self.lock:
            causes = ("fill-failed", "note-verify-failed", "look-failed", "note-given-up")
            if not any(map(self.run.journal.has, causes)) and not self._ended_with_the_node():
                text = "only a copy that did not live, failed its fill or its probes, ended here, or was given up"
                raise OpError("protocol", text)
            self.run.undo("back")
            self._kill_copy()
            if not self.run.journal.has("taken-back"):
                self.run.journal.write("taken-back", discarded=True, failed=self.run.undo("abort", "always"))
            return self.facts()

    def _kill_copy(self) -> None:
        """Nothing of the copy stays: first what builds it, then its tasks, then what fed them."""
        if self.inflow is not None:
            self.inflow.end()
        ended = orphans.end(self.run.id, self.run.tools)
        if ended:
            self.run.journal.tell("strays", tasks=[task._asdict() for task in ended])
        if self.cgroup and not cgroup.kill(self.cgroup):
            raise OpError("leftover", f"tasks in {self.cgroup} survived", hint="recover again when they have ended")
        self.filling.stop()

    def _move_out(self, script_pid: int) -> None:
        """Take the tool and its script out of the workload's cgroup: they must not be frozen with it."""
        outside = self.run.tools or cgroup.of_pid(os.getpid())
        for pid in procs.ancestors(script_pid, os.getpid()):
            if cgroup.of_pid(pid) == self.cgroup:
                cgroup.enter(outside, pid)

    def decide(self, value: str) -> dict[str, Any]:
        """Write the verdict unless one stands, and do at once what stands: land or take back.

        Of a copy that is not held any more PERMIT could only fail: ABORT is written, while it is still to be decided.
        """
        with self.lock:
            if value == "PERMIT" and self.run.verdict() is None and not self._holds():
                value = "ABORT"
            stands = self.run.decide(value)
            if stands == "PERMIT":
                self._land()
            else:
                self._take_back()
            return self.facts()

    def _holds(self) -> bool:
        """Tell whether the tool waits for our answer and CRIU lives.

        Killed, it leaves half-made tasks and its script.
        """
        job = self.job
        return job is not None and job.holds("post-restore") and procs.descends(self.script_pid, job.above)

    def _land(self) -> None:
        """Let the copy go in steps of which each can be proven: frozen in `pre-resume`, journaled, thawed."""
        if self.run.journal.has("landed"):
            self._go()
            return
        if self.fenced:  # all was done but for the record, which the disk did not take
            self.run.journal.write("landed")
            self._go()
            return
        if self.run.journal.has("landing-failed"):
            raise OpError("landing", "PERMIT stands, but the copy ended before it ran")
        if self.job is None or not self._holds():
            self._fail("the held copy is gone", None, never_ran=self._was_never_let_go())
        assert self.job is not None
        self.let_go = True
        self.job.answer("go")
        try:
            script_pid, _, _ = self.job.wait_hook("pre-resume", stall_s=30.0)
        except OpError as error:
            self._fail("the tool failed after PERMIT", error, never_ran=False)
        never_ran = self._fence(script_pid, self.job.above)
        self.job.answer("go")
        code = self.job.wait_end(60.0)
        if code != 0 or not cgroup.wait_frozen(self.cgroup, 10.0) or not cgroup.pids(self.cgroup):
            gone = self.looking.ended(self._tree())
            self._fail(f"the tool ended with {code} after PERMIT{gone and ': '}{gone}", None, never_ran=never_ran)
        if gone := self.looking.ended(self._tree()):
            self._fail(f"{gone}, before it ran", None, never_ran=never_ran)
        self.fenced = True
        self.run.journal.write("landed")
        self._go()

    def _tree(self) -> list[int]:
        """Return the processes of the copy, as they were when it was held."""
        return list((self.run.journal.last("copy-held") or {}).get("tree", ()))

    def _was_never_let_go(self) -> bool:
        """Tell whether "go" was never said.

        This helper knows of itself, of an earlier one its script tells (`vetoed`).
        """
        if self.job is not None:
            return not self.let_go
        orphans.end(self.run.id, self.run.tools, patience_s=2.0)  # the script ends by itself when its helper is gone
        return os.path.exists(os.path.join(self.run.dir, "vetoed"))

    def _fence(self, script_pid: int, above: int) -> bool:
        """Freeze the copy; true when CRIU, that holds its tasks, still lives once they are frozen.

        CRIU that is killed lets go of them: before the fence they run, behind it they do not (trials M13 and E5).
        """
        cgroup.ask_freeze(self.cgroup)
        return cgroup.wait_frozen(self.cgroup, 1.0) and procs.descends(script_pid, above)

    def _go(self) -> None:
        if self.run.journal.has("running"):
            return
        if cgroup.is_asked_to_freeze(self.cgroup):
            self.looking.hold(int((self.run.journal.last("copy-held") or {}).get("init", 0)), self._tree())
            self.run.undo("landed")
            self.filling.watch(self.cgroup)
            cgroup.thaw(self.cgroup)
        self.run.journal.tell("running", running_ns=boottime_ns())
        self.looking.watch(self.cgroup)

    def _fail(self, message: str, cause: OpError | None, *, never_ran: bool) -> None:
        """PERMIT stands but the copy did not land: nothing of it stays, and the journal tells whether it ever ran."""
        tail = self.job.errors() if self.job else ""
        self.run.undo("back")
        if self.job:
            self.job.stop()
        self._kill_copy()
        self.run.journal.write("landing-failed", message=message, never_ran=never_ran)
        raise OpError("landing", message, tail=tail or (cause.tail if cause else ""))

    def _take_back(self) -> None:
        if self.run.journal.has("taken-back"):
            return
        failed = self.run.undo("back")  # while CRIU's network lock stands: nothing may answer without its sockets
        if self.job is not None:
            if self.job.waiting:
                self.job.answer("veto")
                self.job.wait_end(10.0)
            self.job.stop()
        self._kill_copy()
        self.run.journal.tell("taken-back", failed=failed + self.run.undo("abort", "always"))

    def finish(self) -> dict[str, Any]:
        """After landing: remove what only the move needed."""
        with self.lock:
            if self.run.journal.has("look-failed") and cgroup.is_asked_to_freeze(self.cgroup):
                cgroup.thaw(self.cgroup)  # its end was accepted: what is left of it goes on
            if not self.run.journal.has("cleaned"):
                self.run.journal.tell("cleaned", failed=self.run.undo("commit", "always"))
            return self.facts()

    def _ended_with_the_node(self) -> bool:
        return bool(self.run.opened("boot_id", boot_id()) != boot_id())

    def facts(self) -> dict[str, Any]:
        """Return what is so now on the target."""
        try:
            verdict = self.run.verdict()
        except OpError:
            verdict = "UNREADABLE"
        running, failed = self.run.journal.last("running"), self.run.journal.last("landing-failed")
        present = cgroup.pids(self.cgroup) if self.cgroup else []
        return {
            "role": "target",
            "verdict": verdict,
            "ended": self.run.ended,
            "restoring": self.run.journal.has("restoring"),
            "landed": self.run.journal.has("landed"),
            "landing_failed": failed is not None,
            "may_have_run": failed is not None and not failed.get("never_ran"),
            "cleaned": self.run.journal.has("cleaned"),
            **self.filling.facts(),
            **self.looking.facts(),
            "taken_back": self.run.journal.has("taken-back"),
            "running_ns": running["running_ns"] if running else 0,
            "tasks": len([p for p in present if procs.alive(p)]),
            "frozen": bool(self.cgroup) and cgroup.is_asked_to_freeze(self.cgroup),
            "holding": self._holds(),
            "keeps": self.keeps(),
            "needs_source": self._needs_source(),
            "given_up": str((self.run.journal.last("given-up") or {}).get("why", "")),
            "rebooted": self._ended_with_the_node(),
            "lost": self.run.is_lost(),
            "cgroup": self.cgroup,
        }

    def keeps(self) -> bool:
        """Tell whether the held copy is whole without the source, so that it is kept when the source cannot be reached.

        What a daemon's criu holds is none: the daemon undoes it when the source's daemon is gone.
        """
        return self._holds() and not isinstance(self.job, Gate) and not self._needs_source()

    def _needs_source(self) -> bool:
        return bool((self.run.journal.last("restoring") or {}).get("needs_source"))

    def _alone(self) -> str:
        """Return what this end decides without a controller, empty while it must wait.

        A whole copy that is held may be the last one there is, as this node cannot tell a source that is dead from one
        that is cut off. So it waits for the source's vote, on the line or by `recover`, as long as there is memory.
        """
        if not self.keeps() or self.run.verdict() is not None:
            return "ABORT"
        vote = ((self.line.heard if self.line else None) or {}).get("vote")
        if vote in ("READY", "RESUME"):
            return "PERMIT" if vote == "READY" else "ABORT"
        if not self.run.journal.has("copy-kept"):
            self.run.journal.tell("copy-kept", cgroup=self.cgroup)
        short = free_memory.shortage()
        if short:
            self.run.journal.tell("given-up", why=f"the target gave the held copy up: {short}")
        return "ABORT" if short else ""

    def abandoned(self) -> bool:
        """Tell whether the journal is lost, and nothing waits here that this helper could still let go or take back."""
        return self.run.is_lost() and not self._holds()

    def lost(self) -> bool:
        """Act without the controller: with PERMIT the copy lands, without a verdict it is kept or taken back.

        True at an end.
        """
        if self.run.ended:
            return True
        if self.run.journal.has("landing-failed"):
            return False  # held: only the source's end decides how this run ends
        with contextlib.suppress(OpError, OSError):
            value = self._alone()
            if not value:
                return False
            facts = self.decide(value)
            if facts["verdict"] == "PERMIT":
                self.looking.look(self.cgroup)
                self.filling.fill()
                self.finish()
                self.run.end("moved")
            elif self.run.daemon_works():
                return False  # asked again in a second
            else:
                self.run.end("rolled-back")
            return True
        return False


def end_of_earlier_boots() -> None:
    """End the runs for which this node was the target when it restarted before anything was decided.

    No controller would come for them: their source runs again, and the copy went with the node. ABORT is on disk
    before, so nothing can be permitted any more.
    """
    for name in open_runs():
        with contextlib.suppress(OpError, OSError):
            known = Run.load(name)
            other_boot = known is not None and known.opened("boot_id", boot_id()) != boot_id()
            if known is not None and other_boot and known.role == "target" and known.verdict() != "PERMIT":
                Target(known).decide("ABORT")
                known.end("rolled-back")
