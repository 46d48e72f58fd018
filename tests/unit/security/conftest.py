"""What several lines of the security list need: a state of its own, and programs that only tell that they ran."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROGRAMS = ("ssh", "ssh-keyscan", "criu", "runc", "sh", "python3", "nsenter", "sudo", "nft", "openssl")


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    for name in [key for key in os.environ if key.startswith(("REBERTH_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Returns the words of every program that was started by way of PATH."""
    folder, log = tmp_path / "bin", tmp_path / "started"
    folder.mkdir()
    for name in PROGRAMS:
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\nexit 1\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return lambda: log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """An inventory of two nodes."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[nodes.pi1]\naddress = "192.0.2.1"\nbackends = ["runc", "criu"]\n'
        '[nodes.pi2]\naddress = "192.0.2.2"\nbackends = ["runc", "criu"]\n'
    )
    monkeypatch.setenv("REBERTH_CONFIG", str(path))
    return path
