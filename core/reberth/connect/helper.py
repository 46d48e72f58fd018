"""The controller's side of a node helper: a Shell whose calls travel as JSON lines over one connection.

Requests are numbered, answers come as they are ready. A ping every second keeps the far end from acting alone, and
its answers give the offset between the two clocks (`clock()`), with half the shortest round trip as error bound.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from reberth.connect import answers, boot, process
from reberth.connect.failures import Heard, exit_status, not_reached
from reberth.connect.greeting import Greeting
from reberth_hooks import (
    CommandError,
    ConnectionLostError,
    HelperError,
    Node,
    ReberthError,
    Route,
)

CONNECT_TIMEOUT_S = 20.0
PING_S = 1.0
SILENCE_S = 10.0
DECIDING = ("facts", "vote", "decide", "release", "finish")  # what the protocol asks an end for
Answer = Callable[["HelperShell", str, dict[str, Any]], dict[str, Any]]


class Asked:
    """An operation under way; `result` waits for its answer."""

    def __init__(self, future: Future[Any], op: str, node: str, on_wait: Callable[[], None]) -> None:
        self.future, self._op, self._node, self.on_wait = future, op, node, on_wait

    def result(self, timeout_s: float | None = None) -> Any:
        """Return the answer.

        Raises HelperError or ConnectionLostError. Waits in slices, so that ^C is heard at once.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                return self.future.result(0.2)
            except FutureTimeoutError:
                if self.future.done():
                    raise
                self.on_wait()
                if deadline is not None and time.monotonic() > deadline:
                    text = f"node {self._node} did not answer {self._op} within {timeout_s:g} s"
                    raise ConnectionLostError(text, hint="is the node overloaded, or the link cut?") from None


class HelperShell:
    """One node through its helper; also the lines of `docs/helper.md` from the controller's side."""

    move: Any = None  # the run that it serves, for an end whose plugin must know it
    answer: Answer | None = None  # in the helper's place, to what is DECIDING

    def __init__(self, node: Node, route: Route) -> None:
        self._node, self._route = node, route
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[Future[Any], str]] = {}
        self._progress: dict[int, Callable[..., None]] = {}
        self._lock, self._pinging = threading.Lock(), threading.Lock()
        self._heard = time.monotonic()
        self._closed, self._why = False, ""  # why: what was wrong with the node's last line
        self.on_wait: Callable[[], None] = lambda: None  # may raise what ends the wait
        self._offsets: list[tuple[int, int]] = []  # (round trip ns, node's boottime minus ours, ns)
        self._greeting = Greeting()
        argv = process.route_argv(route, boot.control_argv())
        self._process = process.connect(argv, env=dict(route.env) or None)
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._start()
            self.facts: dict[str, Any] = self.call("hello", timeout_s=CONNECT_TIMEOUT_S)
        except ReberthError as error:
            raise self._not_reached(error) from error
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def node(self) -> Node:
        """Return the node of the inventory."""
        return self._node

    @property
    def speaker(self) -> str:
        """Return the plugin that answers in the helper's place.

        A connector with an API alone, else the run's backend.
        """
        return self._node.connector if self._route.api else str(self.move.plan.workload.backend)

    @property
    def route(self) -> Route:
        """Return how the node is reached."""
        return self._route

    # Calls

    def begin(self, op: str, /, *, on_progress: Callable[..., None] | None = None, **args: Any) -> Asked:
        """Start an operation; `on_progress` is called from the reader's thread."""
        number = next(self._numbers)
        data = (json.dumps({"id": number, "op": op, "args": args}, separators=(",", ":")) + "\n").encode()
        if len(data) > answers.LINE_LIMIT_BYTES:
            raise HelperError(
                f"{op} has more to say to node {self._node.name} than one message holds", kind="too-large"
            )
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise self._gone(op)
            self._waiting[number] = (future, op)
            if on_progress:
                self._progress[number] = on_progress
        self._send(data)
        return Asked(future, op, self._node.name, self.on_wait)

    def call(self, op: str, /, *, timeout_s: float | None = 30.0, **args: Any) -> Any:
        """Run an operation and wait for its answer."""
        if self.answer is not None and op in DECIDING:
            return self.answer(self, op, args)
        # No ping may be on its way while `adopt` hands the connection over: it would stay in the old reader's buffer.
        alone = self._pinging if op == "adopt" else contextlib.nullcontext()
        with alone:
            return self.begin(op, **args).result(timeout_s)

    def run(
        self, argv: Sequence[str], *, timeout_s: float = 30.0, check: bool = True, stdin: str = ""
    ) -> process.Finished:
        """Run a program on the node."""
        asked = self.begin("run", argv=list(argv), stdin=stdin, timeout_s=timeout_s)
        found = asked.result(timeout_s + 10)
        done = process.Finished(found["code"], found["out"], found["err"])
        if check and done.code != 0:
            lines = (done.err or done.out).strip().splitlines()
            text = f"{argv[0]} on node {self._node.name} ended with {done.code}"
            raise CommandError(text, tail="\n".join(lines[-10:]))
        return done

    def clock(self) -> tuple[int, int]:
        """Offset (node's CLOCK_BOOTTIME minus ours) and its error bound, both in ns, from the shortest round trip."""
        trip, offset = min(self._offsets, default=(0, 0))
        return offset, trip // 2

    # The connection

    def _start(self) -> None:
        """Send the helper's program, as soon as Python has said that it runs: what a login reads is not ours then."""
        self._greeting.over.wait(CONNECT_TIMEOUT_S)
        if not self._greeting.started:
            text = f"nothing of the helper was heard within {CONNECT_TIMEOUT_S:g} s"
            raise ConnectionLostError(text, hint=self._route.hint)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            data = memoryview(boot.program())
            while data:
                data = data[self._process.stdin.write(data) or 0 :]

    def _send(self, data: bytes) -> None:
        stream = self._process.stdin
        with self._lock, contextlib.suppress(OSError, ValueError):
            assert stream is not None
            view = memoryview(data)
            while view:
                view = view[stream.write(view) or 0 :]

    def _read(self) -> None:
        import io

        assert self._process.stdout is not None
        why = ""
        try:
            with io.BufferedReader(self._process.stdout) as lines:  # type: ignore[type-var]
                begun = self._greeting.read(lines)
                while begun and (message := answers.read(lines)) is not None:
                    self._heard = time.monotonic()
                    self._take(message)
        except answers.NoMessageError as error:
            why = f"node {self._node.name} sent {error}"
            with contextlib.suppress(OSError):
                self._process.kill()
        except (OSError, ValueError, MemoryError) as error:
            why = f"the connection to node {self._node.name} broke: {type(error).__name__}"
        finally:
            self._fail_all(why)

    def _take(self, message: dict[str, Any]) -> None:
        """Give a message to the call that waits for it; one that is not waited for, or no longer, is dropped."""
        number = message.get("id")
        if not isinstance(number, int):
            return
        if "progress" in message:
            watcher, told = self._progress.get(number), answers.progress_of(message)
            if watcher and told:
                with contextlib.suppress(Exception):  # what a watcher does must not end the reader
                    watcher(**told)
            return
        with self._lock:
            future, op = self._waiting.pop(number, (None, ""))
            self._progress.pop(number, None)
        if future is None:
            return
        try:
            future.set_result(answers.settle(message, op, self._node.name))
        except HelperError as error:
            future.set_exception(error)

    def _fail_all(self, why: str = "") -> None:
        with self._lock:
            self._closed, self._why = True, why
            waiting, self._waiting = self._waiting, {}
        for future, op in waiting.values():
            future.set_exception(self._gone(op))

    def _gone(self, op: str) -> ConnectionLostError:
        if self._why:
            return ConnectionLostError(
                f"{self._why} ({op})", hint=f"is that node sound? try: reberth check {self._node.name}"
            )
        return ConnectionLostError(f"the connection to node {self._node.name} was lost ({op})", hint=self._route.hint)

    def _beat(self) -> None:
        while not self._closed:
            before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            try:
                with self._pinging:
                    asked = self.begin("ping")
                    asked.on_wait = lambda: None  # what ends the main thread's waits is not for this one
                    found = asked.result(SILENCE_S)
            except ReberthError:
                if time.monotonic() - self._heard >= SILENCE_S:
                    self.kill()
                continue
            after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self._offsets.append((after - before, found["boot_ns"] - (before + after) // 2))
            del self._offsets[:-60]
            time.sleep(PING_S if len(self._offsets) > 5 else 0.02)

    def _not_reached(self, error: ReberthError) -> ReberthError:
        """Return why a connection never came to be: the peer's identity, a login without Python, or the way there."""
        code = exit_status(self._process, 0.5)
        self._stop()
        said = ""
        if self._process.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                os.set_blocking(self._process.stderr.fileno(), False)  # a jump host's ssh may still hold the other end
                said = (self._process.stderr.read() or b"").decode(errors="replace").strip()
        self.kill()
        heard = Heard(code, said, self._greeting.printed, self._greeting.started)
        return not_reached(self._node, self._route, error, heard)

    def kill(self) -> None:
        """End the connection at once; the helper finds itself alone."""
        self._stop()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _stop(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:  # without a connection in between it is all that tells the helper
                self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        process.end(self._process)

    def close(self) -> None:
        """Say good-bye and end the connection."""
        if not self._closed:
            with contextlib.suppress(ReberthError):
                self.call("bye", timeout_s=2.0)
        stream = self._process.stdin
        with contextlib.suppress(OSError, ValueError):
            assert stream is not None
            stream.close()
        process.end(self._process)
        if self._process.stderr is not None:
            self._process.stderr.close()
