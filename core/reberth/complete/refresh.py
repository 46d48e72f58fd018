"""Makes old names new, in a process of its own, so that no tab waits for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from reberth.complete import cache

LIMIT_S = 60


def in_background(nodes: Sequence[str]) -> None:
    """Fork, and ask the nodes in the child, cut off from the terminal; REBERTH_COMPLETE_ASK=0 forbids it."""
    if os.environ.get("REBERTH_COMPLETE_ASK") == "0":
        return
    # A fork and no program: the answer is out, this process has one thread, and what follows is our own code.
    if os.fork():
        return
    code = 1
    try:
        _detach()
        for node in nodes:
            _ask(node)
        code = 0
    finally:
        os._exit(code)


def _detach() -> None:
    import signal

    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # the shell waits for the end of our standard output
        os.dup2(null, descriptor)
    os.closerange(3, 256)
    os.nice(10)
    signal.alarm(LIMIT_S)  # its default action ends this process, and with it the connections


def _ask(node: str) -> None:
    """List the workloads of a node as `reberth ls` does, unless somebody is at it."""
    import fcntl

    cache.folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(cache.tried(node), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return
    os.utime(lock)
    with contextlib.suppress(Exception):
        from reberth.cli import common
        from reberth.cli.ls import remember

        with common.open_host(common.load_config(), quiet=True, json=True) as host:
            remember([node], host.list_workloads(node), complete=not host.warnings)
    os.close(lock)
