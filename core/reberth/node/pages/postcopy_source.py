"""The source's side of a post-copy: the dump stays and answers for its pages while the frozen tasks wait.

CRIU would kill its tasks, or let them run, as soon as its page server is through, and takes a stranger's or a dead
daemon's closed connection for a good end (facts of this project: 3 of 5 killed daemons cost both copies). So it is
told `--leave-stopped`, the cgroup stays frozen whatever CRIU does, and only our own commit kills the tasks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import socket
import threading
import time
from typing import Any, Callable

from reberth.node.criu.tool import Job
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.net import loopback
from reberth.node.pages.relay import Channel, Flow
from reberth.node.system import procs
from reberth.node.system.rate_limit import Bucket

ALONE = ("127.0.0.1", 9876)  # inside a network namespace with no other process
CONNECT_S = 10.0


class Serving:
    """The page server of one dump: CRIU's own, reached by a socket pair, or by a port in a place of its own."""

    def __init__(self, channel: Channel, bucket: Bucket, *, by_port: bool) -> None:
        self.flow = Flow(channel, bucket)
        self.place = Place() if by_port else None
        self.begun = False

    def words(self, argv: list[str]) -> list[str]:
        """Return the argument list with `@pages@` replaced by what CRIU is reached through."""
        value = "{}:{}".format(*ALONE) if self.place else str(self.flow.theirs.fileno())
        return [word.replace("@pages@", value) for word in argv]

    def spawn(self, job: Job, argv: list[str], **how: Any) -> None:
        """Start the dump with its end of the socket pair, or inside the place where it may listen."""
        words = self.words(argv)
        if self.place is not None:
            self.place.do(lambda: job.spawn(words, **how))
        else:
            job.spawn(words, pass_fds=(self.flow.theirs.fileno(),), **how)

    def start(self, job: Job) -> None:
        """From now on the other node's first request lets the dump go on to its page server."""

        def first() -> None:
            self.begun = True
            job.answer("go")
            if self.place is not None:
                self.flow.use(self.place.do(_connect))

        self.flow.start(first)

    def holds(self, job: Job) -> bool:
        """Tell whether the dump has gone on to its page server and is still there."""
        return self.begun and job.process is not None and job.process.poll() is None

    def dismiss(self) -> None:
        """Tell a page server that listens after a veto that no client will come: the dump goes on to it even then."""
        if self.place is not None:
            with contextlib.suppress(OSError):
                self.place.do(_connect).close()

    def end(self) -> None:
        """Close the flow: CRIU's page server ends, and leaves the tasks as they are."""
        self.flow.end()


class Place:
    """A network namespace of its own, and the one thread in it: what it starts and connects is in there too.

    runc cannot hand CRIU a socket, so CRIU listens; here it does where no other process is.
    """

    def __init__(self) -> None:
        self._work: queue.Queue[Callable[[], None]] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()
        self.do(_isolate)

    def _run(self) -> None:
        while True:
            self._work.get()()

    def do(self, action: Callable[[], Any]) -> Any:
        """Do something inside; answers or raises what it does."""
        answers: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

        def act() -> None:
            try:
                answers.put((action(), None))
            except (OSError, OpError) as error:
                answers.put((None, error))

        self._work.put(act)
        value, error = answers.get()
        if error is not None:
            raise error
        return value


def _isolate() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(loopback.CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace of our own")
    loopback.raise_here()


def _connect() -> socket.socket:
    """Return a connection to CRIU's page server, which listens a moment after it was let go."""
    deadline = time.monotonic() + CONNECT_S
    while True:
        try:
            found = socket.create_connection(ALONE, timeout=1.0)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return found
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def stopped(path: str) -> list[int]:
    """Return the processes of a cgroup that somebody has stopped (SIGSTOP): these must stay so."""
    states = {pid: procs.task(pid) for pid in cgroup.pids(path)}
    return [pid for pid, task in states.items() if task and task.state == "T"]


def wake(path: str, but: list[int]) -> None:
    """Take `--leave-stopped` back, while the cgroup is frozen: they run when it is thawed."""
    for pid in cgroup.pids(path):
        if pid not in but:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
