"""Names of workloads by node, in files, so that completion asks no node: `cache_dir()/complete/node-NODE`.

A line has backend, name and status, between tabs. Beside it `node-NODE.tried` tells when somebody last set out to make
it new, whatever came of it: a node that does not answer is not asked at each press of the tab key. `nodes` has what was
read from the configuration.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from reberth.config.paths import cache_dir
from reberth.text import is_name, safe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Env = Mapping[str, str]
FRESH_S = 30.0
MOST_LINES = 1000


class Entry:
    """One workload."""

    def __init__(self, backend: str, name: str, status: str) -> None:
        self.backend, self.name, self.status = backend, name, status


def folder(environ: Env | None = None) -> Path:
    """Return where the files are; for the user alone, since names of workloads may tell something."""
    return cache_dir(environ) / "complete"


def read(node: str, environ: Env | None = None) -> list[Entry]:
    """Return what is known of a node; nothing when nothing is."""
    rows = [line.split("\t") for line in read_lines(f"node-{node}", environ)]
    good = (row for row in rows if len(row) == 3 and is_name(row[0]) and is_name(row[1]) and row[2].isprintable())
    return [Entry(*row) for row in good]


def write(node: str, entries: Iterable[Entry], environ: Env | None = None) -> None:
    """Replace what is known of a node."""
    rows = [f"{e.backend}\t{e.name}\t{safe(e.status)}" for e in entries if is_name(e.backend) and is_name(e.name)]
    if write_lines(f"node-{node}", rows, environ):
        tried(node, environ).touch(mode=0o600)


def read_lines(name: str, environ: Env | None = None) -> list[str]:
    """Return the lines of a file; none when it is not there, or not ours."""
    try:
        with (folder(environ) / name).open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return []
            return [line.rstrip("\n") for _, line in zip(range(MOST_LINES), file, strict=False)]
    except (OSError, ValueError):
        return []


def write_lines(name: str, lines: list[str], environ: Env | None = None) -> bool:
    """Replace a file in one step; a folder that cannot be written is no error, there is only no completion."""
    path = folder(environ) / name
    beside = path.with_name(f".{name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside.touch(mode=0o600)
        beside.write_text("".join(f"{line}\n" for line in lines[:MOST_LINES]), encoding="utf-8")
        beside.replace(path)
    except (OSError, ValueError):
        return False
    return True


def tried(node: str, environ: Env | None = None) -> Path:
    """Return the file whose time says when the node was last asked."""
    return folder(environ) / f"node-{node}.tried"


def is_old(node: str, environ: Env | None = None) -> bool:
    """Tell whether the node was not asked for a while."""
    try:
        return time.time() - tried(node, environ).stat().st_mtime > FRESH_S
    except OSError:
        return True
