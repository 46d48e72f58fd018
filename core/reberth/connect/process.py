"""The one module that starts processes on the controller: argument lists only, no shell ever sees a name.

Commands run through `sh` (a well-kept library); connections are plain pipes, since `sh` forks and copies data through
Python, which has no place in the frozen window (4 to 40 ms and 72 MiB/s against 0.6 ms and the kernel's own pipes,
measured by this project's study, 2026-11-22).
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from reberth_hooks import CommandError, Route

Process = subprocess.Popen[bytes]
NOWHERE = subprocess.DEVNULL
PIECE_BYTES, MOST_PIECES = 64 << 10, 256  # the newest 16 MiB of what a program says


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended: exit status (negative: a signal), standard output and error."""

    code: int
    out: str
    err: str


def run_local(
    argv: Sequence[str], *, timeout_s: float = 30.0, stdin: str = "", env: Mapping[str, str] | None = None
) -> Finished:
    """Run a program on the controller to its end; raises CommandError when it cannot be started or takes too long."""
    import sh

    set_env = dict(env) if env is not None else None
    late = threading.Event()
    try:
        # `_timeout` would look only every 0.1 s whether the program has ended, which is long for a short one.
        words: dict[str, Any] = {"_in": stdin or None, "_env": set_env, "_tty_out": False, "_ok_code": list(range(256))}
        # Pieces and not lines: `sh` keeps the newest of each, and a line of a phone's may have no end.
        words |= {
            "_out_bufsize": PIECE_BYTES,
            "_err_bufsize": PIECE_BYTES,
            "_internal_bufsize": MOST_PIECES,
            "_no_pipe": True,
        }
        done = sh.Command(argv[0])(*argv[1:], **words, _return_cmd=True, _bg=True, _bg_exc=False)
        watchdog = threading.Timer(timeout_s, lambda: late.set() or done.kill())  # type: ignore[func-returns-value]
        watchdog.start()
        try:
            done.wait()
        finally:
            watchdog.cancel()
    except sh.CommandNotFound as error:
        raise CommandError(f"{argv[0]} is not installed here", hint=f"install {argv[0]}") from error
    except sh.SignalException as error:
        if late.is_set():
            raise CommandError(f"{argv[0]} did not end within {timeout_s:g} s") from error
        return Finished(-int(getattr(error, "exit_code", 1) or 1), "", str(error))
    return Finished(int(done.exit_code), done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def route_argv(route: Route, command: Sequence[str], *, bulk: bool = False, pages: bool = False) -> list[str]:
    """Return the words that run `command` at the end of a route; where a login shell joins them, each is quoted."""
    words = [*route.become, *command]
    prefix = (route.pages or route.bulk) if pages else route.bulk if bulk else route.control
    if not prefix:
        return words
    return [*prefix, shlex.join(words)] if route.quoted else [*prefix, *words]


def connect(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] = subprocess.PIPE,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> Process:
    """Start a connection; in a session of its own, so that ^C reaches the controller and not the connection."""
    settings: dict[str, Any] = {"env": dict(env)} if env is not None else {}
    try:
        return subprocess.Popen(
            list(argv), stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True, bufsize=0, **settings
        )
    except FileNotFoundError as error:
        raise CommandError(f"{argv[0]} is not installed here", hint=f"install {argv[0]}") from error


def end(process: Process, grace_s: float = 2.0) -> None:
    """Let a connection end by itself for a moment, then make it."""
    for signal_it in (None, process.terminate, process.kill):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            if signal_it is not None:
                signal_it()
            process.wait(grace_s)
            return
