"""The life of a workload: detaching, the main loop, answers to signals."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from types import FrameType
from typing import Any, Optional

from workloads.base import Checks, Workload, wait_until, write_atomically, write_json
from workloads.beat import Beat

BEAT_S = 0.001
START_LIMIT_S = 60.0
KEPT_PROBLEMS = 50


class Life:
    """Runs one workload until SIGTERM. SIGUSR1: verify into DIR/result.json; SIGUSR2: plant what DIR/plant names."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.beat = Beat()
        self.serial = 0
        self.asked: set[int] = set()
        self.problems: list[str] = []

    def run(self) -> int:
        """Set up, report ready, beat until told to stop."""
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        try:
            self.workload.setup()
            write_atomically(self._path("ready"), f"{os.getpid()}\n")
            self.beat = Beat()
            while signal.SIGTERM not in self.asked:
                self._turn()
        finally:
            self.workload.close()
        return 0

    def _turn(self) -> None:
        time.sleep(BEAT_S)
        elapsed_s = self.beat.mark()
        try:
            self.beat.forgive(self.workload.step(elapsed_s))
        except Exception as error:
            self._remember(f"while running: {type(error).__name__}: {error} ({_place(error)})")
        if signal.SIGUSR2 in self.asked:
            self.asked.discard(signal.SIGUSR2)
            self._plant()
        if signal.SIGUSR1 in self.asked:
            self.asked.discard(signal.SIGUSR1)
            self._answer()

    def _on_signal(self, number: int, _frame: Optional[FrameType]) -> None:
        self.asked.add(number)

    def _answer(self) -> None:
        begin_s = time.monotonic()
        checks = Checks()
        checks.guard("verify", lambda: self.workload.verify(checks))
        problems = self.problems + checks.problems
        self.serial += 1
        seconds = time.monotonic() - begin_s
        result: dict[str, Any] = {
            "ok": not problems,
            "problems": problems[:KEPT_PROBLEMS],
            "kind": self.workload.kind,
            "pid": os.getpid(),
            "serial": self.serial,
            "beats": self.beat.beats,
            "gaps": self.beat.gaps(),
            "checks": checks.counts,
            "verify_s": round(seconds, 4),
        }
        write_json(self._path("result.json"), result)
        self.beat.forgive(time.monotonic() - begin_s)

    def _plant(self) -> None:
        begin_s = time.monotonic()
        path = self._path("plant")
        try:
            with open(path, encoding="utf-8") as stream:
                kind = stream.read().strip()
            if kind == "forget-gaps":
                self.beat.forget()
            else:
                self.workload.plant(kind)
            answer = "planted"
        except Exception as error:
            answer = f"not planted: {type(error).__name__}: {error} ({_place(error)})"
        write_atomically(self._path("planted"), answer)
        self.beat.forgive(time.monotonic() - begin_s)

    def _remember(self, problem: str) -> None:
        if problem not in self.problems and len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(problem)

    def _path(self, name: str) -> str:
        return os.path.join(self.workload.directory, name)


def _place(error: BaseException) -> str:
    """File and line of the innermost frame, without reading the source (it may not exist on this node)."""
    place = "?"
    for frame, line in traceback.walk_tb(error.__traceback__):
        place = f"{os.path.basename(frame.f_code.co_filename)}:{line}"
    return place


def quiet_stdio() -> None:
    """Point stdin, stdout and stderr to /dev/null and close all other descriptors: nothing may lead outside."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, 65536)


def run_here(workload: Workload) -> int:
    """Run in this process, as the first process of a container; what ends it by mistake is told in DIR/error."""
    os.chdir("/")
    quiet_stdio()
    try:
        return Life(workload).run()
    except Exception:
        write_atomically(os.path.join(workload.directory, "error"), traceback.format_exc())
        return 1


def run_detached(workload: Workload) -> int:
    """Start a session of its own; the caller prints the pid as soon as the workload is ready, and ends.

    Exit status 1 with the reason on stderr when it died while setting up.
    """
    ready = os.path.join(workload.directory, "ready")
    error_path = os.path.join(workload.directory, "error")
    for stale in (ready, error_path, os.path.join(workload.directory, "result.json")):
        if os.path.exists(stale):
            os.unlink(stale)
    child = os.fork()
    if child == 0:
        _be_the_child(workload)
    if not wait_until(lambda: os.path.exists(ready) or os.path.exists(error_path), START_LIMIT_S):
        os.kill(child, signal.SIGKILL)
    if not os.path.exists(ready):
        os.waitpid(child, 0)
        reason = "not ready in time"
        if os.path.exists(error_path):
            with open(error_path, encoding="utf-8") as stream:
                reason = stream.read()
        print(reason, file=sys.stderr)
        return 1
    print(child)
    return 0


def _be_the_child(workload: Workload) -> None:
    code = 1
    try:
        os.setsid()
        code = run_here(workload)
    finally:
        os._exit(code)
