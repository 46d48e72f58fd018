"""Timers, pending signals, event counters and what watches them."""

from __future__ import annotations

import os
import resource
import select
import signal
import time

from workloads import kernel
from workloads.base import Checks, wait_until
from workloads.ipc_items import Item

PERIOD_S = 0.05
LONG_S = 1000.0
MINUTE_S = 60.0
QUEUED_SIGNAL = signal.SIGRTMIN + 1
POSIX_TIMER_SIGNAL = signal.SIGRTMIN + 2
SIGNALFD_SIGNAL = signal.SIGRTMIN + 3
QUEUED_VALUES = [7, 1_000_003, 42]


class TimerFd(Item):
    """A timerfd that is due each minute, and one that is due once in a quarter of an hour."""

    name = "timerfd"

    def setup(self) -> None:
        """Start both."""
        self.periodic = kernel.timerfd(MINUTE_S, MINUTE_S)
        self.late = kernel.timerfd(0, LONG_S)
        self.due_s = time.monotonic() + LONG_S

    def check(self, checks: Checks) -> None:
        """Both are armed, and due when they must be."""
        interval_s, left_s = kernel.timerfd_get(self.periodic)
        checks.equal("interval of the timerfd", interval_s, MINUTE_S)
        checks.expect(0 < left_s <= MINUTE_S, f"the timerfd is due in {left_s} s")
        _, left_s = kernel.timerfd_get(self.late)
        checks.expect(left_s > 0, "the long timerfd is not armed any more")
        # CLOCK_MONOTONIC goes on from the dump (criu's time namespace), so the rest does too; a second for the seams.
        due_in_s = self.due_s - time.monotonic()
        checks.expect(abs(due_in_s - left_s) < 1, f"the long timerfd is due in {left_s} s, not {due_in_s} s")

    def spoil(self) -> None:
        """Disarm one."""
        kernel.timerfd_set(self.late, 0, 0)


class TimerFdFast(Item):
    """A timerfd that expires during the freeze: criu 4.2.1 finds 0 s left and restores it disarmed."""

    name = "timerfd-fast"
    usual = False

    def setup(self) -> None:
        """Start it."""
        self.number = kernel.timerfd(PERIOD_S, PERIOD_S)

    def check(self, checks: Checks) -> None:
        """It ticks."""
        self.step()
        checks.expect(wait_until(self._ticked, 10 * PERIOD_S), "the fast timerfd does not tick")

    def step(self) -> None:
        """Take the expirations."""
        self._ticked()

    def spoil(self) -> None:
        """Disarm it."""
        kernel.timerfd_set(self.number, 0, 0)

    def _ticked(self) -> bool:
        try:
            return bool(os.read(self.number, 8))
        except BlockingIOError:
            return False


class IntervalTimer(Item):
    """setitimer(ITIMER_REAL): SIGALRM twenty times a second."""

    name = "itimer"

    def setup(self) -> None:
        """Start it."""
        self.ticks = 0
        signal.signal(signal.SIGALRM, self._on_tick)
        signal.setitimer(signal.ITIMER_REAL, PERIOD_S, PERIOD_S)

    def check(self, checks: Checks) -> None:
        """It is armed and ticks."""
        checks.equal("interval of the itimer", round(signal.getitimer(signal.ITIMER_REAL)[1], 3), PERIOD_S)
        before = self.ticks
        checks.expect(wait_until(lambda: self.ticks > before, 10 * PERIOD_S), "itimer does not tick")

    def spoil(self) -> None:
        """Disarm it."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_tick(self, *_: object) -> None:
        self.ticks += 1


class PosixTimer(Item):
    """timer_create: a real-time signal twenty times a second."""

    name = "posix-timer"

    def setup(self) -> None:
        """Start it."""
        self.ticks = 0
        signal.signal(POSIX_TIMER_SIGNAL, self._on_tick)
        self.timer = kernel.PosixTimer(POSIX_TIMER_SIGNAL, PERIOD_S)

    def check(self, checks: Checks) -> None:
        """It is armed and ticks."""
        checks.equal("interval of the posix timer", round(self.timer.get()[0], 6), PERIOD_S)
        before = self.ticks
        checks.expect(wait_until(lambda: self.ticks > before, 10 * PERIOD_S), "posix timer does not tick")

    def spoil(self) -> None:
        """Disarm it."""
        self.timer.set(0, 0)

    def _on_tick(self, *_: object) -> None:
        self.ticks += 1


class PendingSignals(Item):
    """Blocked signals that wait: one plain, three queued with values in order."""

    name = "pending-signals"

    def setup(self) -> None:
        """Block and send."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, QUEUED_SIGNAL})
        os.kill(os.getpid(), signal.SIGHUP)
        self._queue()

    def check(self, checks: Checks) -> None:
        """The plain one is pending, the queued ones come in order with their values."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        checks.expect({signal.SIGHUP, QUEUED_SIGNAL} <= blocked, "signals are not blocked any more")
        checks.expect(signal.SIGHUP in signal.sigpending(), "SIGHUP is not pending any more")
        checks.equal("queued signals", self._take(), [(kernel.SI_QUEUE, value) for value in QUEUED_VALUES])
        self._queue()

    def spoil(self) -> None:
        """Lose one queued signal."""
        kernel.sigtake(QUEUED_SIGNAL)

    def _queue(self) -> None:
        for value in QUEUED_VALUES:
            kernel.sigqueue(QUEUED_SIGNAL, value)

    def _take(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while QUEUED_SIGNAL in signal.sigpending():
            found.append(kernel.sigtake(QUEUED_SIGNAL))
        return found


class SignalFd(Item):
    """A signalfd with a signal to read."""

    name = "signalfd"

    def setup(self) -> None:
        """Block, open, send."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {SIGNALFD_SIGNAL})
        self.number = kernel.signalfd([SIGNALFD_SIGNAL])
        kernel.sigqueue(SIGNALFD_SIGNAL, 5)

    def check(self, checks: Checks) -> None:
        """Read it and send it again."""
        found = os.read(self.number, 128)
        checks.equal("signal read from the signalfd", int.from_bytes(found[:4], "little"), int(SIGNALFD_SIGNAL))
        kernel.sigqueue(SIGNALFD_SIGNAL, 5)

    def spoil(self) -> None:
        """Lose the signal."""
        os.read(self.number, 128)


class EventFd(Item):
    """An event counter."""

    name = "eventfd"
    value = 3_456_789_012

    def setup(self) -> None:
        """Create it."""
        self.number = kernel.eventfd(0)
        self._put()

    def check(self, checks: Checks) -> None:
        """Read it and put it back."""
        checks.equal("eventfd", int.from_bytes(os.read(self.number, 8), "little"), self.value)
        self._put()

    def spoil(self) -> None:
        """Count one too many."""
        os.write(self.number, (1).to_bytes(8, "little"))

    def _put(self) -> None:
        os.write(self.number, self.value.to_bytes(8, "little"))


class EventFdLarge(EventFd):
    """An event counter beyond 32 bits: criu 4.2.1 cuts it off without a word."""

    name = "eventfd-large"
    usual = False
    value = 123_456_789_012


class Epoll(Item):
    """An epoll set of one ready and one silent descriptor."""

    name = "epoll"

    def setup(self) -> None:
        """Register both."""
        self.ready, self.silent = kernel.eventfd(3), kernel.eventfd(0)
        self.epoll = select.epoll()
        self.epoll.register(self.ready, select.EPOLLIN)
        self.epoll.register(self.silent, select.EPOLLIN | select.EPOLLET)

    def check(self, checks: Checks) -> None:
        """Only the ready one is reported; the silent one is when it is written to."""
        checks.equal("epoll", self.epoll.poll(0), [(self.ready, select.EPOLLIN)])
        os.write(self.silent, (1).to_bytes(8, "little"))
        found = sorted(self.epoll.poll(0))
        os.read(self.silent, 8)
        checks.equal("epoll, both", found, sorted([(self.ready, select.EPOLLIN), (self.silent, select.EPOLLIN)]))

    def spoil(self) -> None:
        """Forget one."""
        self.epoll.unregister(self.silent)


class Inotify(Item):
    """A watch on the workload's directory; criu 4.2.1 refuses it on overlayfs ("Can't dump that handle")."""

    name = "inotify"
    usual = False

    def setup(self) -> None:
        """Watch."""
        self.number = kernel.inotify(self.directory)
        self.probe = os.path.join(self.directory, "inotify-probe")

    def step(self) -> None:
        """Throw away the events of other files, so that the queue is empty."""
        try:
            os.read(self.number, 65536)
        except BlockingIOError:
            return

    def check(self, checks: Checks) -> None:
        """A new file is reported."""
        self.step()
        with open(self.probe, "wb"):
            pass
        os.unlink(self.probe)
        try:
            found = os.read(self.number, 65536)
        except BlockingIOError:
            found = b""
        checks.expect(b"inotify-probe" in found, "inotify does not report a new file")

    def spoil(self) -> None:
        """Replace it by one that watches nothing."""
        other = kernel.eventfd(0)
        os.dup2(other, self.number)
        os.close(other)


class Attributes(Item):
    """What belongs to the process itself: directory, umask, nice, name, limit, ignored signals."""

    name = "attributes"

    def setup(self) -> None:
        """Make each unlike the usual."""
        os.chdir("/usr")
        os.umask(0o027)
        os.nice(3)
        with open("/proc/self/comm", "w", encoding="utf-8") as stream:
            stream.write("moved-name")
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        self.expected = self._found()

    def check(self, checks: Checks) -> None:
        """Compare each."""
        for what, found in self._found().items():
            checks.equal(what, found, self.expected[what])

    def spoil(self) -> None:
        """Change one."""
        os.umask(0o022)

    def _found(self) -> dict[str, object]:
        mask = os.umask(0)
        os.umask(mask)
        with open("/proc/self/comm", encoding="utf-8") as stream:
            name = stream.read()
        return {
            "working directory": os.getcwd(),
            "umask": mask,
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "name": name,
            "core limit": resource.getrlimit(resource.RLIMIT_CORE),
            "SIGQUIT": signal.getsignal(signal.SIGQUIT),
            "session": os.getsid(0),
            "ids": (os.getresuid(), os.getresgid()),
        }


SIGNALS: tuple[type[Item], ...] = (
    TimerFd,
    TimerFdFast,
    IntervalTimer,
    PosixTimer,
    PendingSignals,
    SignalFd,
    EventFd,
    EventFdLarge,
    Epoll,
    Inotify,
    Attributes,
)
