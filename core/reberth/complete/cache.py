"""Names of workloads by node, in files, so that completion asks no node: `cache_dir()/complete/NODE`.

A line has backend, name and status, between tabs. Beside it `NODE.tried` tells when somebody last set out to make it
new, whatever came of it: a node that does not answer is not asked at each press of the tab key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from reberth.paths import cache_dir
from reberth.text import is_name, safe

FRESH_S = 30.0
MOST_NAMES = 1000


class Entry:
    """One workload."""

    def __init__(self, backend: str, name: str, status: str) -> None:
        self.backend, self.name, self.status = backend, name, status


def folder(environ: Mapping[str, str] | None = None) -> Path:
    """Where the files are; for the user alone, since names of workloads may tell something."""
    return cache_dir(environ) / "complete"


def read(node: str, environ: Mapping[str, str] | None = None) -> list[Entry]:
    """What is known of a node; nothing when nothing is, or the file is not ours."""
    try:
        with (folder(environ) / node).open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return []
            rows = [line.rstrip("\n").split("\t") for _, line in zip(range(MOST_NAMES), file, strict=False)]
    except (OSError, ValueError):
        return []
    return [
        Entry(*row) for row in rows if len(row) == 3 and is_name(row[0]) and is_name(row[1]) and row[2].isprintable()
    ]


def write(node: str, entries: Iterable[Entry], environ: Mapping[str, str] | None = None) -> None:
    """Replace what is known of a node; a folder that cannot be written is no error, there is only no completion."""
    rows = [f"{e.backend}\t{e.name}\t{safe(e.status)}\n" for e in entries if is_name(e.backend) and is_name(e.name)]
    path = folder(environ) / node
    beside = path.with_name(f".{node}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside.touch(mode=0o600)
        beside.write_text("".join(rows[:MOST_NAMES]), encoding="utf-8")
        beside.replace(path)
        tried(node, environ).touch(mode=0o600)
    except OSError:
        beside.unlink(missing_ok=True)


def tried(node: str, environ: Mapping[str, str] | None = None) -> Path:
    """The file whose time says when the node was last asked."""
    return folder(environ) / f"{node}.tried"


def is_old(node: str, environ: Mapping[str, str] | None = None) -> bool:
    """Whether nobody asked the node for a while."""
    try:
        return time.time() - tried(node, environ).stat().st_mtime > FRESH_S
    except OSError:
        return True
