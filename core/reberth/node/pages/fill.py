"""Lazy restore: the copy runs at once and its pages come after it, from images that lie here or from the source.

CRIU's lazy-pages daemon answers the page faults. When the last descriptor of a userfaultfd is closed, missing pages
read as zeros: silently wrong memory. Two processes share the daemon's open files (`shared_table`), so a daemon that
dies makes the copy block instead (tried: 291 wrong lines without, none with it), and what it closes is closed. Commit
waits until the fill is complete and counted.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable

from reberth.node.criu.pagemap import lazy_pages
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.pages import shared_table
from reberth.node.pages.daemon_log import DaemonLog
from reberth.node.pages.patience import Patience
from reberth.node.pages.prefetch import Prefetch
from reberth.node.pages.shared_table import Holder
from reberth.node.runs.run import Run
from reberth.node.system import procs, spawn

SOCKET = "lazy-pages.socket"
HOLDERS = 2
LOG_BYTES = 4 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
GUARDIAN_S, POLL_S, END_S = 2.0, 0.01, 10.0
NOBODY_S = 2.0


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
        identity = self.filler.begin()
        self.run.journal.write("lazy-daemon", **identity)  # before anything can go wrong: they outlive this helper
        self.filler.wait_ready()
        self.run.journal.write("lazy", **identity, pages=self.filler.expected, remote=flow is not None)

    def guard(self, address_spaces: int) -> None:
        """Make sure that every userfaultfd is held, before the copy may run."""
        if self.filler is not None:
            self.filler.guard(address_spaces)

    def watch(self, path: str) -> None:
        """Before the copy runs: freeze it as soon as the daemon dies."""
        self.cgroup = path
        if self.filler is not None:
            self.filler.watch(path, self._broke)

    def _broke(self) -> None:
        """Give the fill up: not all of the copy's memory is there, and the rest does not come."""
        with contextlib.suppress(OSError, OpError):
            cgroup.ask_freeze(self.cgroup)

    def fill(self, told: Callable[..., None] | None = None) -> None:
        """Wait until every page is in; raises OpError `fill` when the daemon died or does not get on (`Patience`)."""
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
        """End the daemon and those that hold, and the guardian that a dead helper has left; their copy must be dead."""
        if self.filler is not None:
            self.filler.stop()
            return
        self._end_left(self.run.journal.last("lazy-daemon") or {})
        left = self.run.journal.last("guardian")
        deadline = time.monotonic() + GUARDIAN_S
        while left and procs.alive(left["pid"], left["start_ticks"]):
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left["pid"], signal.SIGKILL)
            time.sleep(POLL_S)

    @staticmethod
    def _end_left(daemon: dict[str, Any]) -> None:
        """End what an earlier helper has started: the daemon first, so that it hears nothing of the rest."""
        for pid, start_ticks in [(daemon.get("pid", 0), daemon.get("start_ticks", 0)), *daemon.get("holders", [])]:
            if pid:
                shared_table.end(Holder(pid, start_ticks))

    def facts(self) -> dict[str, Any]:
        """Return what the protocol decides from, and what the fill has cost."""
        found: dict[str, Any] = {
            n: self.run.journal.has(n.replace("_", "-")) for n in ("lazy", "filled", "fill_failed")
        }
        done = self.run.journal.last("filled") or {}
        return {**found, "fill": {key: done[key] for key in ("pages", "bytes", "seconds") if key in done}}


class Guardian:
    """The process beside us that watches the copy when we are gone; started while the workload still runs."""

    def __init__(self) -> None:
        source = pkgutil.get_data("reberth.node.pages", "guardian.py")
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
        """Tell it something; returns how many address spaces each process holds, 0 when it is gone."""
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
    """The daemon of one restore, and the processes that hold what it holds."""

    def __init__(self, work: str, flow: Prefetch | None = None, guard: Guardian | None = None) -> None:
        self.work, self.flow, self.guardian = work, flow, guard
        self.log = os.path.join(work, "lazy-pages.log")
        self.said: DaemonLog | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.holders: list[Holder] = []
        self.expected = 0  # pages that come through the flow
        self.guarded = 0  # address spaces
        self.cgroup = ""  # the copy's, once it may run

    def begin(self) -> dict[str, Any]:
        """Start the daemon and those that hold; returns who they are. Raises OpError `lazy-pages`."""
        log = os.path.basename(self.log)
        if self.flow is not None:
            # -v4 tells what was unmapped or forked meanwhile, which the count of the pages needs.
            log = "lazy-pages.fifo"
            self.said = DaemonLog(os.path.join(self.work, log), self.log)
        argv = ["criu", "lazy-pages", "--no-default-config", "-v4" if self.flow else "-v2"]
        argv += ["--images-dir", self.work, "--work-dir", self.work, "--log-file", log]
        fds: list[int] = []
        if self.flow is not None:
            fds = [self.flow.theirs.fileno()]
            argv += ["--page-server", "--ps-socket", str(fds[0])]
        output = os.path.join(self.work, "lazy-pages.out")
        words = shared_table.stopped(spawn.resolve(argv))
        self.process = spawn.spawn(words, output=output, cwd=self.work, pass_fds=fds)
        self.holders = shared_table.begin(self.process, HOLDERS, file_bytes=LOG_BYTES)
        for one in self.holders:
            spawn.spare(one.pid)
        me = procs.task(self.process.pid)
        return {"pid": self.process.pid, "start_ticks": me.start_ticks if me else 0, "holders": self.holders}

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Wait until the daemon listens; raises OpError `lazy-pages` when it does not."""
        assert self.process is not None
        if self.flow is not None:
            self.expected = self.flow.load(self.work)
            self.flow.start()
        deadline = time.monotonic() + timeout_s
        while not os.path.exists(os.path.join(self.work, SOCKET)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise OpError("lazy-pages", "criu lazy-pages did not start", tail=self.errors())
            time.sleep(0.001)

    def guard(self, expected: int, timeout_s: float = 5.0) -> int:
        """Wait until every address space has its userfaultfd and is held; raises OpError when it is not."""
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while (found := self._held()) < expected:
            if self.process.poll() is not None or time.monotonic() > deadline:
                text = f"criu lazy-pages holds {found} of {expected} address spaces"
                raise OpError("lazy-pages", text, tail=self.errors())
            time.sleep(0.001)
        self.guarded = found
        if self.guardian is not None:
            words = " ".join(str(pid) for pid in (self.process.pid, *(one.pid for one in self.holders)))
            if self.guardian.say(f"guard {words}") < expected:
                raise OpError("lazy-pages", "the guardian does not see every address space held")
        return found

    def _held(self) -> int:
        return min(shared_table.count(one.pid) for one in self.holders)

    def watch(self, path: str, broke: Callable[[], None]) -> None:
        """Tell when the daemon dies before all pages are in."""
        self.cgroup = path
        if self.guardian is not None:
            self.guardian.say(f"copy {path}")

        def run() -> None:
            assert self.process is not None
            if self.process.wait() != 0 and not self._nobody():
                broke()

        threading.Thread(target=run, daemon=True).start()

    def wait(self, told: Callable[..., None] | None = None) -> dict[str, Any]:
        """Wait until every page is in, and count them; returns what came.

        A copy that has ended needs no page any more, which its daemon (criu 4.2.1) does not always see. Raises OpError
        `fill` when the daemon died, when it does not get on (`Patience`), or when pages are missing: then the copy
        blocks at its next missing page, and those that hold keep it so.
        """
        assert self.process is not None
        started_s = lived_s = time.monotonic()
        patience = Patience(self.process.pid, self._expected_bytes(), self.flow)
        while self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
            if not self._nobody():
                lived_s = time.monotonic()
            elif time.monotonic() - lived_s > NOBODY_S:
                return self._unneeded(time.monotonic() - started_s)
            if self.flow is not None and told is not None:
                told(bytes=self.flow.bytes)
            if self.process.poll() is None:
                self._check(patience)
        code = self.process.wait()
        self._hang_up()
        if code != 0:
            text = f"criu lazy-pages ended with {code}"
            raise OpError("fill", text, tail=self.errors() or (self.flow.failed if self.flow else ""))
        seconds = time.monotonic() - started_s
        return {"code": code, "guarded": self.guarded, "seconds": seconds, **self._count()}

    def _expected_bytes(self) -> int:
        pages = self.expected if self.flow else sum(lazy_pages(self.work).values())
        return pages * PAGE_BYTES

    def _check(self, patience: Patience) -> None:
        try:
            patience.check()
        except OpError:
            assert self.process is not None
            spawn.kill_group(self.process)
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        """The daemon has ended, but its end of the flow is open in those that share it: the source is told by us."""
        if self.flow is not None:
            self.flow.end()
        if self.said is not None:
            self.said.close()

    def errors(self) -> str:
        """Return the first errors of the daemon's log."""
        return spawn.first_errors(self.log)

    def _nobody(self) -> bool:
        """Tell whether the copy, which may run, has no task left."""
        return bool(self.cgroup) and cgroup.events(self.cgroup).get("populated") == 0

    def _unneeded(self, seconds: float) -> dict[str, Any]:
        """End the fill of a copy that has ended by itself, whatever its daemon waits for."""
        assert self.process is not None
        spawn.kill_group(self.process)
        found = {"code": self.process.wait(), "guarded": self.guarded, "seconds": seconds}
        self._hang_up()
        if self.flow is not None:
            found.update(pages=self.flow.pages, dropped=self.expected - self.flow.pages, bytes=self.flow.bytes)
        return found

    def _count(self) -> dict[str, int]:
        """CRIU's exit status alone proves nothing: each page has come, or was unmapped before it could."""
        if self.flow is None or self.said is None:
            return {}
        came = self.flow.pages
        if self.flow.failed:
            raise OpError("fill", f"the flow of pages failed: {self.flow.failed}")
        dropped = self.said.dropped_pages
        if came + dropped < self.expected:
            raise OpError("fill", f"{came} of {self.expected} pages came, {dropped} are known to be unmapped")
        return {"pages": came, "dropped": dropped, "bytes": self.flow.bytes}

    def release(self) -> None:
        """Let go: all pages are in, or the copy is dead."""
        if self.guardian is not None:
            self.guardian.release()
        while self.holders:
            shared_table.end(self.holders.pop())

    def stop(self) -> None:
        """End the daemon; the copy must be dead before."""
        if self.process is not None and self.process.poll() is None:
            spawn.kill_group(self.process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_S)
        self._hang_up()
        self.release()
