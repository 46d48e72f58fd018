"""Lazy restore: the copy runs at once and its pages come after it, from images that lie here already.

CRIU's lazy-pages daemon answers the page faults. When a userfaultfd loses its last holder, missing pages read as zeros:
silently wrong memory. The guardian, this helper, holds a copy of each, so a daemon that dies makes the copy block
instead (tried: 291 wrong lines without, none with it). Commit waits until the fill is complete.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

from reberth.node import procs, tools
from reberth.node.errors import OpError
from reberth.node.run import Run

SOCKET = "lazy-pages.socket"


class Fill:
    """The filling of one copy's memory, journaled; nothing to do for a copy that was restored whole."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.filler: Filler | None = None

    def start(self, work: str, lazy: bool) -> None:
        """Start the daemon, before the restore; nothing unless it is `lazy`."""
        if not lazy:
            return
        self.filler = Filler(work)
        pid, start_ticks = self.filler.start()
        self.run.journal.write("lazy", pid=pid, start_ticks=start_ticks)

    def guard(self, address_spaces: int) -> None:
        """Hold a copy of every userfaultfd, before the copy may run."""
        if self.filler is not None:
            self.filler.guard(address_spaces)

    def fill(self, timeout_s: float = 3600.0) -> None:
        """Wait until every page is in; raises OpError `fill` when the daemon died, `fill-slow` when it takes longer."""
        if not self.run.journal.has("lazy") or self.run.journal.has("filled"):
            return
        if self.filler is None:
            self._judge()
            return
        try:
            self.run.journal.write("filled", **self.filler.wait(timeout_s))
        except OpError as error:
            if error.kind == "fill":
                self.run.journal.write("fill-failed", message=error.message)
            raise

    def _judge(self) -> None:
        """The helper that guarded the fill has died: a daemon that lives goes on, of a dead one nothing is known."""
        record = self.run.journal.last("lazy") or {}
        if procs.alive(record["pid"], record["start_ticks"]):
            raise OpError("fill-slow", "pages are still missing", hint="recover again in a moment")
        if not self.run.journal.has("fill-failed"):
            self.run.journal.write("fill-failed", message="nobody saw how the fill ended")
        raise OpError("fill", "nobody saw how the fill of memory ended")

    def stop(self) -> None:
        """End the daemon; its copy must be dead."""
        if self.filler is not None:
            self.filler.stop()

    def facts(self) -> dict[str, bool]:
        """What the protocol decides from."""
        return {name: self.run.journal.has(name.replace("_", "-")) for name in ("lazy", "filled", "fill_failed")}


class Filler:
    """The daemon of one restore and the copies of its descriptors."""

    def __init__(self, work: str) -> None:
        self.work = work
        self.log = os.path.join(work, "lazy-pages.log")
        self.process: subprocess.Popen[bytes] | None = None
        self.guarded: dict[int, int] = {}  # descriptor of the daemon -> our copy

    def start(self, timeout_s: float = 10.0) -> tuple[int, int]:
        """Start the daemon and wait for its socket; answers pid and start time."""
        argv = ["criu", "lazy-pages", "--no-default-config", "-v2"]
        argv += ["--images-dir", self.work, "--work-dir", self.work, "--log-file", "lazy-pages.log"]
        self.process = tools.spawn(argv, output=os.path.join(self.work, "lazy-pages.out"), cwd=self.work)
        deadline = time.monotonic() + timeout_s
        while not os.path.exists(os.path.join(self.work, SOCKET)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise OpError("lazy-pages", "criu lazy-pages did not start", tail=tools.first_errors(self.log))
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
                    return len(self.guarded)
                if self.process.poll() is not None or time.monotonic() > deadline:
                    text = f"criu lazy-pages holds {len(self.guarded)} of {expected} address spaces"
                    raise OpError("lazy-pages", text, tail=tools.first_errors(self.log))
                time.sleep(0.001)
        finally:
            os.close(pidfd)

    def _copy_new(self, pidfd: int) -> None:
        assert self.process is not None
        directory = f"/proc/{self.process.pid}/fd"
        for name in os.listdir(directory):
            number = int(name)
            if number not in self.guarded and procs.link(f"{directory}/{name}") == "anon_inode:[userfaultfd]":
                try:
                    self.guarded[number] = procs.copy_fd(pidfd, number)
                except OSError as error:
                    raise OpError("lazy-pages", f"a userfaultfd cannot be guarded: {error.strerror}") from error

    def wait(self, timeout_s: float) -> dict[str, Any]:
        """Wait until every page is in; answers the daemon's exit status and its warnings about missing pages.

        Raises OpError `fill` when the daemon died: then the copy blocks at its next missing page, and the guardian
        keeps it so.
        """
        assert self.process is not None
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise OpError("fill-slow", f"pages are still missing after {timeout_s:g} s") from None
        if code != 0:
            raise OpError("fill", f"criu lazy-pages ended with {code}", tail=tools.first_errors(self.log))
        found = {"code": code, "guarded": len(self.guarded)}
        self.release()
        return found

    def release(self) -> None:
        """Give the copies up: all pages are in, or the copy is dead."""
        while self.guarded:
            os.close(self.guarded.popitem()[1])

    def stop(self) -> None:
        """End the daemon; the copy must be dead before."""
        if self.process is not None and self.process.poll() is None:
            tools.kill_group(self.process)
            self.process.wait()
        self.release()
