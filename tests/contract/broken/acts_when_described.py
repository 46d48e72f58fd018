"""It writes a file when it is only asked what it is."""

from __future__ import annotations

from pathlib import Path

from good_backend import *  # noqa: F403
from good_backend import declaration, hookimpl

FAILS = "test_describing_has_no_side_effect"
BECAUSE = "open /dev/null"


@hookimpl
def reberth_describe():
    Path("/dev/null").write_text("seen")
    return declaration()
