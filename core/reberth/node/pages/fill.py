"""Lazy restore: the copy runs at once and its pages come after it, from images that lie here or from the source.

CRIU's lazy-pages daemon answers the page faults. When a userfaultfd loses its last holder, missing pages read as zeros:
silently wrong memory. The guardian, this helper, holds a copy of each, so a daemon that dies makes the copy block
instead (tried: 291 wrong lines without, none with it). Commit waits until the fill is complete and counted.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.pages import uffd_holder
from reberth.node.pages.prefetch import Prefetch
from reberth.node.runs.run import Run
from reberth.node.system import procs, spawn

SOCKET = "lazy-pages.socket"
STALL_S = 60.0
GUARD_S, GUARD_REST = 0.01, 20
GUARDIAN_S = 2.0
NOBODY_S = 2.0
# Lines of criu/uffd.c at -v4 (4.2.1, read 2026-11-25).
DROPPED = re.compile(r"uffd: \d+-\d+: (?:REMOVE|UNMAP): [0-9a-f]+\(([0-9a-f]+)\)")
ENDED = re.compile(r"uffd: \d+-\d+: EXIT")


class Fill:
    """The filling of one copy's memory, journaled; nothing to do for a copy that was restored whole."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.filler: Filler | None = None
        self.cgroup = ""
        self._lock = threading.Lock()

    def start(self, work: str, lazy: bool, flow: Prefetch | None = None, guard: Guardian | None = None) -> None:
        """Start the daemon, before the restore; nothing unless it is `lazy`. With a `flow` the source has the pages."""
        if not lazy:
            return
        self.filler = Filler(work, flow, guard)
        pid, start_ticks = self.filler.start()
        pages, remote = self.filler.expected, flow is not None
        self.run.journal.write("lazy", pid=pid, start_ticks=start_ticks, pages=pages, remote=remote)

    def guard(self, address_spaces: int) -> None:
        """Hold a copy of every userfaultfd, before the copy may run."""
        if self.filler is not None:
            self.filler.guard(address_spaces)

    def watch(self, path: str) -> None:
        """Before the copy runs: guard also what it forks from now on, and freeze it as soon as the daemon dies."""
        self.cgroup = path
        if self.filler is not None:
            self.filler.watch(path, self._broke)

    def _broke(self) -> None:
        """Not all of the copy's memory is there, and nobody brings the rest."""
        with contextlib.suppress(OSError, OpError):
            cgroup.ask_freeze(self.cgroup)

    def fill(self, told: Callable[..., None] | None = None) -> None:
        """Wait until every page is in; raises OpError `fill` when the daemon died or nothing came for `STALL_S`."""
        with self._lock:
            if not self.run.journal.has("lazy") or self.run.journal.has("filled"):
                return
            failed = self.run.journal.last("fill-failed")
            if failed is not None:
                raise OpError("fill", failed["message"])
            if self.filler is None:
                self._judge()
                return
            try:
                found = self.filler.wait(told)
            except OpError as error:
                self.run.journal.write("fill-failed", message=error.message)
                self._broke()
                raise
            self.run.journal.write("filled", **found)
            self.filler.release()

    def _judge(self) -> None:
        """The helper that guarded the fill has died: a daemon that lives goes on, of a dead one nothing is known."""
        record = self.run.journal.last("lazy") or {}
        if not record.get("remote") and procs.alive(record["pid"], record["start_ticks"]):
            raise OpError("fill-slow", "pages are still missing", hint="recover again in a moment")
        self.run.journal.write("fill-failed", message="nobody saw how the fill ended")
        raise OpError("fill", "nobody saw how the fill of memory ended")

    def stop(self) -> None:
        """End the daemon, and the guardian that a dead helper has left; their copy must be dead."""
        if self.filler is not None:
            self.filler.stop()
            return
        left = self.run.journal.last("guardian")
        deadline = time.monotonic() + GUARDIAN_S
        while left and procs.alive(left["pid"], left["start_ticks"]):
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left["pid"], signal.SIGKILL)
            time.sleep(GUARD_S)

    def facts(self) -> dict[str, Any]:
        """What the protocol decides from, and what the fill has cost."""
        found: dict[str, Any] = {
            n: self.run.journal.has(n.replace("_", "-")) for n in ("lazy", "filled", "fill_failed")
        }
        done = self.run.journal.last("filled") or {}
        return {**found, "fill": {key: done[key] for key in ("pages", "bytes", "seconds") if key in done}}


class Guardian:
    """The process beside us that holds what we hold; started while the workload still runs."""

    def __init__(self) -> None:
        source = pkgutil.get_data("reberth.node.pages", "uffd_holder.py")
        assert source is not None
        self.process = subprocess.Popen(
            [sys.executable, "-IS", "-c", source.decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=spawn.clean_env(),
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )

    def say(self, line: str) -> int:
        """Tell it something; answers how many descriptors it holds, 0 when it is gone."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(f"{line}\n".encode())
            return int(self.process.stdout.readline())
        return 0

    def release(self) -> None:
        """Let it end: nothing is left to guard."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(b"release\n")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0)
        self.process.stdin.close()
        self.process.stdout.close()


class Filler:
    """The daemon of one restore and the copies of its descriptors."""

    def __init__(self, work: str, flow: Prefetch | None = None, guard: Guardian | None = None) -> None:
        self.work, self.flow, self.guardian = work, flow, guard
        self.log = os.path.join(work, "lazy-pages.log")
        self.process: subprocess.Popen[bytes] | None = None
        self.expected = 0  # pages that come through the flow
        self.guarded: dict[int, int] = {}  # descriptor of the daemon -> our copy
        self.cgroup = ""  # the copy's, once it may run
        self._guarding = threading.Lock()

    def start(self, timeout_s: float = 10.0) -> tuple[int, int]:
        """Start the daemon and wait for its socket; answers pid and start time."""
        # -v4 tells what was unmapped or forked meanwhile, which the count of the pages needs.
        argv = ["criu", "lazy-pages", "--no-default-config", "-v4" if self.flow else "-v2"]
        argv += ["--images-dir", self.work, "--work-dir", self.work, "--log-file", "lazy-pages.log"]
        fds: list[int] = []
        if self.flow is not None:
            fds = [self.flow.theirs.fileno()]
            argv += ["--page-server", "--ps-socket", str(fds[0])]
        output = os.path.join(self.work, "lazy-pages.out")
        self.process = spawn.spawn(argv, output=output, cwd=self.work, pass_fds=fds)
        if self.flow is not None:
            self.expected = self.flow.load(self.work)
            self.flow.start()
        deadline = time.monotonic() + timeout_s
        while not os.path.exists(os.path.join(self.work, SOCKET)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise OpError("lazy-pages", "criu lazy-pages did not start", tail=spawn.first_errors(self.log))
            time.sleep(0.001)
        me = procs.task(self.process.pid)
        return self.process.pid, me.start_ticks if me else 0

    def guard(self, expected: int, timeout_s: float = 5.0) -> int:
        """Copy every userfaultfd of the daemon until it has `expected` of them; raises OpError when it does not."""
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while True:
                self._copy_new(pidfd)
                if len(self.guarded) >= expected:
                    break
                if self.process.poll() is not None or time.monotonic() > deadline:
                    text = f"criu lazy-pages holds {len(self.guarded)} of {expected} address spaces"
                    raise OpError("lazy-pages", text, tail=spawn.first_errors(self.log))
                time.sleep(0.001)
        finally:
            os.close(pidfd)
        if self.guardian is not None and self.guardian.say(f"guard {self.process.pid}") < expected:
            raise OpError("lazy-pages", "the guardian does not hold every address space")
        return len(self.guarded)

    def _copy_new(self, pidfd: int) -> None:
        assert self.process is not None
        try:
            uffd_holder.copy_new(pidfd, self.process.pid, self.guarded)
        except OSError as error:
            raise OpError("lazy-pages", str(error)) from error

    def watch(self, path: str, broke: Callable[[], None]) -> None:
        """Guard what the daemon is given later (a task that forks), and tell when it dies before all pages are in."""
        self.cgroup = path
        if self.guardian is not None:
            self.guardian.say(f"copy {path}")

        def run() -> None:
            assert self.process is not None
            with contextlib.suppress(OSError, OpError):
                pidfd = os.pidfd_open(self.process.pid)
                while self.process.poll() is None:
                    began_s = time.monotonic()
                    with self._guarding, contextlib.suppress(OSError, OpError):
                        self._copy_new(pidfd)
                    # a slow node has better use for its processor: the pages come through this very process
                    time.sleep(max(GUARD_S, GUARD_REST * (time.monotonic() - began_s)))
                os.close(pidfd)
            if self.process.wait() != 0 and not self._nobody():
                broke()

        threading.Thread(target=run, daemon=True).start()

    def wait(self, told: Callable[..., None] | None = None) -> dict[str, Any]:
        """Wait until every page is in, and count them; answers what came.

        A copy that has ended needs no page any more, which its daemon (criu 4.2.1) does not always see. Raises OpError
        `fill` when the daemon died, when no page came for `STALL_S`, or when pages are missing: then the copy blocks at
        its next missing page, and the guardian keeps it so.
        """
        assert self.process is not None
        started_s = lived_s = time.monotonic()
        while self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
            if not self._nobody():
                lived_s = time.monotonic()
            elif time.monotonic() - lived_s > NOBODY_S:
                return self._unneeded(time.monotonic() - started_s)
            if self.flow is not None:
                if told is not None:
                    told(bytes=self.flow.bytes)
                if self.process.poll() is None and time.monotonic() - max(self.flow.moved_s, started_s) > STALL_S:
                    spawn.kill_group(self.process)
                    raise OpError("fill", f"no page came for {STALL_S:g} s", hint="is the link cut?")
        code = self.process.wait()
        if code != 0:
            text = f"criu lazy-pages ended with {code}"
            raise OpError("fill", text, tail=spawn.first_errors(self.log) or (self.flow.failed if self.flow else ""))
        seconds = time.monotonic() - started_s
        found = {"code": code, "guarded": len(self.guarded), "seconds": seconds}
        if self.flow is not None:
            found.update(self._count())
        return found

    def _nobody(self) -> bool:
        """Whether the copy, which may run, has no task left."""
        return bool(self.cgroup) and cgroup.events(self.cgroup).get("populated") == 0

    def _unneeded(self, seconds: float) -> dict[str, Any]:
        """The copy has ended by itself: so does the fill, whatever its daemon waits for."""
        assert self.process is not None
        spawn.kill_group(self.process)
        found = {"code": self.process.wait(), "guarded": len(self.guarded), "seconds": seconds}
        if self.flow is not None:
            found.update(pages=self.flow.pages, dropped=self.expected - self.flow.pages, bytes=self.flow.bytes)
        return found

    def _count(self) -> dict[str, int]:
        """CRIU's exit status alone proves nothing: each page has come, or was unmapped before it could."""
        assert self.flow is not None
        came = self.flow.pages
        if self.flow.failed:
            raise OpError("fill", f"the flow of pages failed: {self.flow.failed}")
        dropped = dropped_pages(self.log)
        if came + dropped < self.expected:
            raise OpError("fill", f"{came} of {self.expected} pages came, {dropped} are known to be unmapped")
        return {"pages": came, "dropped": dropped, "bytes": self.flow.bytes}

    def release(self) -> None:
        """Give the copies up: all pages are in, or the copy is dead."""
        if self.guardian is not None:
            self.guardian.release()
        with self._guarding:
            while self.guarded:
                os.close(self.guarded.popitem()[1])

    def stop(self) -> None:
        """End the daemon; the copy must be dead before."""
        if self.process is not None and self.process.poll() is None:
            spawn.kill_group(self.process)
            self.process.wait()
        if self.flow is not None:
            self.flow.end()
        self.release()


def dropped_pages(log: str) -> int:
    """Pages that the workload gave back before they came, as the daemon's log tells; all of them for an exit."""
    dropped_bytes = 0
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            found = DROPPED.search(line)
            if found:
                dropped_bytes += int(found[1], 16)
            elif ENDED.search(line):
                return 1 << 62
    return dropped_bytes // os.sysconf("SC_PAGE_SIZE")
