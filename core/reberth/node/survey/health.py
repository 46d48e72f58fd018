"""Is the copy well? Probes of a workload that has just landed, made from inside its own namespaces."""

from __future__ import annotations

import http.client
import socket
import time
from typing import TYPE_CHECKING, Any, Callable

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.net import loopback
from reberth.node.runs.target import Target
from reberth.node.system import procs, spawn

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon

PAUSE_S, CONNECT_S = 0.1, 2.0
# Into every namespace of the copy and its root directory, so that a command finds what the workload would find.
ENTER = ("nsenter", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd")


def verify(daemon: Daemon, progress: Any, kind: str, words: list[str], limit_s: float = 10.0) -> dict[str, Any]:
    """Probe the running copy until it answers or the time is over; answers `good` and what was seen last.

    `kind` is exec (an argument list), tcp (host, port), http (host, port, path) or processes (how many at least).
    """
    end = daemon.end
    if not isinstance(end, Target):
        raise OpError("protocol", "only a copy on the target can be verified")
    held = end.run.journal.last("copy-held")
    if held is None or not end.run.journal.has("running"):
        raise OpError("protocol", "the copy does not run yet")
    probe = PROBES.get(kind)
    if probe is None:
        raise OpError("bad-argument", f"there is no probe {kind!r}")
    deadline = time.monotonic() + limit_s
    while True:
        problem = probe(int(held["init"]), end.cgroup, words)
        if not problem or time.monotonic() > deadline:
            return {"good": not problem, "problem": problem}
        time.sleep(PAUSE_S)


def _exec(init: int, group: str, words: list[str]) -> str:
    done = spawn.run([*ENTER, "--target", str(init), "--", *words], timeout_s=30.0)
    if done["code"] == 0:
        return ""
    said = (done["err"] or done["out"]).strip().splitlines()[-1:]
    return f"{words[0]} ended with {done['code']}{': ' + said[0] if said else ''}"


def _inside(init: int, action: Callable[[], str]) -> str:
    """Do it in the copy's network namespace; the problem in words, empty when there is none."""

    def guarded() -> str:
        try:
            return action()
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__

    found = loopback.inside(init, guarded)
    return "the copy's network namespace cannot be entered" if found is None else found


def _tcp(init: int, group: str, words: list[str]) -> str:
    def connect() -> str:
        with socket.create_connection((words[0], int(words[1])), timeout=CONNECT_S):
            return ""

    return _inside(init, connect)


def _http(init: int, group: str, words: list[str]) -> str:
    def get() -> str:
        connection = http.client.HTTPConnection(words[0], int(words[1]), timeout=CONNECT_S)
        try:
            connection.request("GET", words[2], headers={"Connection": "close"})
            status = connection.getresponse().status
        finally:
            connection.close()
        return "" if 200 <= status < 400 else f"answered {status}"

    return _inside(init, get)


def _processes(init: int, group: str, words: list[str]) -> str:
    alive = sum(procs.alive(pid) for pid in cgroup.pids(group))
    return "" if alive >= int(words[0]) else f"{alive} processes run, {words[0]} are expected"


PROBES: dict[str, Callable[[int, str, list[str]], str]] = {
    "exec": _exec,
    "tcp": _tcp,
    "http": _http,
    "processes": _processes,
}
