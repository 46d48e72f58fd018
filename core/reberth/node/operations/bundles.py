"""Bundles that a move left behind, and storage that both nodes share.

A move never deletes the user's bundle on the source. It is marked instead, so that a later move back may replace it,
and only it: path, device and inode must still be those of the mark.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from reberth.node.operations.context import end_of
from reberth.node.runs.run import state_dir
from reberth.node.system.durable import read_text, write_whole

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon


def _mark(path: str) -> str:
    place = os.path.join(state_dir(), "left-behind")
    with contextlib.suppress(FileExistsError):
        os.mkdir(place, 0o700)
    return os.path.join(place, hashlib.sha256(os.fsencode(path)).hexdigest()[:32])


def mark_left(daemon: Daemon, progress: Any, path: str) -> None:
    """Say that the bundle here is an old copy: its container has moved away."""
    found = os.stat(path)
    run_id = daemon.end.run.id if daemon.end else ""
    write_whole(_mark(path), json.dumps({"path": path, "dev": found.st_dev, "ino": found.st_ino, "run": run_id}))


def is_left(daemon: Daemon, progress: Any, path: str) -> dict[str, Any]:
    """`exists`, and whether it is an old copy that may be replaced (`left`)."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return {"exists": False, "left": False}
    text = read_text(_mark(path)) if os.getuid() == 0 else None
    left = False
    if text:
        with contextlib.suppress(ValueError, TypeError):
            mark = json.loads(text)
            left = (mark["path"], mark["dev"], mark["ino"]) == (path, found.st_dev, found.st_ino)
    return {"exists": True, "left": left, "entries": len(os.listdir(path)) if os.path.isdir(path) else 1}


def unmark_left(daemon: Daemon, progress: Any, path: str) -> None:
    """The bundle is in use again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_mark(path))


def plant(daemon: Daemon, progress: Any, directory: str) -> str:
    """Put an empty file of a random name into a directory, for the other node to look for; undone in any case."""
    path = os.path.join(directory, f".reberth-shared-{os.urandom(8).hex()}")
    end_of(daemon).run.push_undo("always", "rmtree", path=path)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return path


def pluck(daemon: Daemon, progress: Any, path: str) -> None:
    """Remove what `plant` put there."""
    if os.path.basename(path).startswith(".reberth-shared-"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
