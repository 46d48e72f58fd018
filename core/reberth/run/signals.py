"""^C, SIGTERM and the time limit of a run, heard only where the controller waits: never in the middle of a message."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from reberth_hooks import Exit, ReberthError


class InterruptedRunError(ReberthError):
    """^C, SIGTERM or `reberth abort` ended the run."""

    code = "interrupted"


class TimedOutError(ReberthError):
    """`--timeout` ran out before PERMIT."""

    code, exit_code = "timeout", Exit.TIMEOUT


class DetachedRunError(BaseException):
    """A second ^C while the run is settled: the nodes finish alone."""


class Interrupts:
    """What was heard; `check` is called wherever the controller waits, and raises what must stop the wait."""

    def __init__(self, timeout_s: float, warn: Callable[[str], None]) -> None:
        self.timeout_s, self.warn = timeout_s, warn
        self.settling = self.late = self.brisk = False
        self.heard = 0

    def check(self) -> None:
        """Raise InterruptedRunError or TimedOutError in a phase, DetachedRunError at the second ^C while settling.

        `brisk` at the first: `recover` settles what another process began, and may be stopped at any moment.
        """
        if self.settling:
            if self.heard > (0 if self.brisk else 1):
                raise DetachedRunError
        elif self.heard:
            raise InterruptedRunError("interrupted", hint="nothing is lost; start it again when you like")
        elif self.late:
            raise TimedOutError(f"not done within {self.timeout_s:g} s", hint="give more time with --timeout")

    def settle(self) -> None:
        """From now on the first signal is noted and the second leaves the run to the nodes."""
        self.settling, self.heard = True, 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear signals while the run lasts; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self.heard += 1
            if self.settling and self.heard == 1 and not self.brisk:
                self.warn("the run is being settled; once more leaves it to the nodes")

        def alarm(number: int, frame: FrameType | None) -> None:
            self.late = True

        handlers = ((signal.SIGINT, stop), (signal.SIGTERM, stop), (signal.SIGALRM, alarm))
        old = {number: signal.signal(number, handler) for number, handler in handlers}
        signal.setitimer(signal.ITIMER_REAL, self.timeout_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in old.items():
                signal.signal(number, handler)
