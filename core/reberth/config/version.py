"""Which version of reberth this is, for what is written now and read by another one later."""

from __future__ import annotations

import functools


@functools.cache
def version() -> str:
    """Return the version of the installed package, empty where it is not installed as one."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("reberth")
    except PackageNotFoundError:
        return ""
