"""The part that pytest loads by itself (entry point `pytest11`): the fixture `reberth_lab`, and nothing heavy."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from reberth.testing.lab import Lab

pytest.register_assert_rewrite(
    *(f"reberth.testing.{name}" for name in ("plain", "backend", "judge", "transport", "connector"))
)


@pytest.fixture
def reberth_lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Two nodes that are directories, `node1` and `node2`; the controller's own files are beside them."""
    from reberth.testing.lab import Lab

    # In memory where there is such a place: each step of a move is flushed to disk. Short: sockets live in it.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    place = Path(tempfile.mkdtemp(prefix="reberth-kit-", dir=memory))
    for name in ("state", "config", "run"):
        (place / name).mkdir(mode=0o700)
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    monkeypatch.delenv("REBERTH_CONFIG", raising=False)
    lab = Lab(place)
    try:
        yield lab
    finally:
        lab.close()
        shutil.rmtree(place)
