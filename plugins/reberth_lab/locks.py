"""File locks that may be removed by their holder, so that nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reberth_lab.proc import LabError


@contextmanager
def locked(path: Path, *, wait_s: float = 60, remove: bool = True) -> Iterator[None]:
    """Holds an exclusive lock on `path`; raises LabError when another process keeps it longer than `wait_s`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    while (held := _try(path)) is None:
        if time.monotonic() > deadline:
            raise LabError(f"another lab command holds {path}", "wait for it to end, or end it")
        time.sleep(0.1)
    try:
        yield
    finally:
        if remove:
            path.unlink(missing_ok=True)
        os.close(held)


def _try(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The holder before us may have removed the file between our open and our lock: nobody else would see ours.
        ours, there = os.fstat(descriptor), path.stat()
        if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
