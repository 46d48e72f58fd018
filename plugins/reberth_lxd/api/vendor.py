"""Where reberth's packages put pylxd and ws4py: a folder that only this plugin looks into."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

LEAST = (2, 4)  # before it pylxd could not be told how to carry its requests


def folder() -> str:
    """Return the folder, below the prefix that the running Python was installed to."""
    return f"{sys.prefix}/share/reberth/vendor"


def enable() -> None:
    """Let the bundled pylxd be imported, unless the system has one that is new enough."""
    if folder() in sys.path or _version() >= LEAST or not Path(folder()).is_dir():
        return
    sys.path.insert(0, folder())


def _version() -> tuple[int, ...]:
    try:
        found = importlib.metadata.version("pylxd")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(int(word) for word in re.findall(r"\d+", found)[:2])
