"""What a killed helper leaves: its own directory, in which the key of its run may lie. The next helper takes it away.

A helper holds a lock on its directory as long as it lives (`connect/boot.py` takes it); one of an older version is
known by its socket, on which it listens.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import time

YOUNG_S = 5.0  # a helper of an older version that has only begun listens soon


def sweep(mine: str) -> None:
    """Remove the directories of dead helpers beside our own; what is half made or in use stays."""
    base = os.path.dirname(mine)
    for name in os.listdir(base):
        path = os.path.join(base, name)
        if name.startswith("h-") and path != mine and os.path.exists(os.path.join(path, "helper.zip")):
            with contextlib.suppress(OSError):
                _remove_dead(path)


def _remove_dead(path: str) -> None:
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        age_s = time.time() - os.fstat(lock).st_mtime
        if age_s > YOUNG_S and not _listens(os.path.join(path, "ctl")):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        try:
            peer.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True
