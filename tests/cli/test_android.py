"""`reberth android`: what is refused before any device is asked, and what its help says."""

from __future__ import annotations

import pytest

from reberth_android import files
from reberth_android.cli import status_lines


@pytest.fixture
def adb(tmp_path, monkeypatch):
    """An adb that sees nothing and remembers that it was asked."""
    folder = tmp_path / "programs"
    folder.mkdir()
    trace = tmp_path / "asked"
    (folder / "adb").write_text(f'#!/bin/sh\necho "$@" >>{trace}\necho "Android Debug Bridge version 1.0.41"\n')
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return trace


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--name", "a b"], "no node name"),
        (["--name", "-x"], "no node name"),
        (["--address", "phone.lan"], "no address"),
        (["--address", "0.0.0.0"], "--address any"),
        (["--address", "::"], "--address any"),
        (["--address", "192.0.2.7\nPermitRootLogin yes"], "no address"),
        (["--address", "any"], "--reach"),
        (["--address", "any", "--reach", "-oProxyCommand=x"], "no host"),
        (["--port", "0"], "--port"),
    ],
)
def test_words_that_would_open_more_are_refused_first(world, adb, words, said):
    done = world.run("android", "setup", "--yes", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not adb.exists()


@pytest.mark.parametrize("command", ["setup", "start", "stop", "status", "undo"])
def test_without_a_device_nothing_is_done(world, adb, command):
    done = world.run("android", command)
    assert done.exit_code == 13
    assert "adb sees no device" in done.stderr
    assert "nothing was touched" in done.stderr
    assert set(adb.read_text().split()) <= {"version", "devices"}


def test_a_status_reads_like_one():
    check = {"id": "listen", "level": "warn", "reason": "everywhere", "remedy": "here"}
    data = {"serial": "A", "node": "", "set_up": False, "pid": 0, "listening": [], "keys": 2, "boot": "no"}
    lines = status_lines({**data, "checks": [check, {**check, "id": "fine", "level": "ok"}]})
    assert lines == [
        "device     A",
        "set up     no",
        "sshd       does not run",
        "listens    nothing",
        "keys       2",
        "at boot    no; by hand: reberth android start A",
        "warning    listen: everywhere",
        "           here",
    ]


def test_the_docs_show_the_six_lines():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs/how-to/android.md").read_text("utf-8")
    assert "".join(f"    {line}\n" for line in files.SIX_LINES.splitlines()) in text
