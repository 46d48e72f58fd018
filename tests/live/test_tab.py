"""The tab key asks a real node in the background: nothing is waited for, and the next press knows the names.

Live because a background process asks a real node while the shell goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from livekit.command import Command
from livekit.stand import Stand

PATIENCE_S = 60


def press(reberth: Command, cache: Path, *typed: str) -> list[str]:
    """The candidates for the last word; standard error must stay empty and closed, or the shell would wait."""
    argv = [sys.executable, "-m", "reberth", "__complete", *typed]
    env = reberth.environment({"XDG_CACHE_HOME": str(cache)})
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=30, start_new_session=True)
    assert done.returncode == 0 and done.stderr == ""
    return [line.partition("\t")[0] for line in done.stdout.splitlines()[:-1]]


def end_all_of(cache: Path) -> None:
    """End what a press has left in the background: its ssh waits, and would end in the midst of another test."""
    mark = f"XDG_CACHE_HOME={cache}\0".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (place / "environ").read_bytes():
                os.kill(int(place.name), signal.SIGKILL)


def test_the_first_press_asks_and_a_later_one_knows(works: Stand, reberth: Command, tmp_path: Path) -> None:
    handle = works.container("memory", "--mib", "4")
    assert press(reberth, tmp_path, "move", "node1:") == []
    wanted, deadline = f"node1:{handle.container}", time.monotonic() + PATIENCE_S
    while wanted not in press(reberth, tmp_path, "move", "node1:") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert press(reberth, tmp_path, "move", wanted[:-1]) == [wanted]
    assert press(reberth, tmp_path, "move", wanted, "node2") == ["node2:"]


def test_a_node_that_does_not_answer_is_asked_once(reberth: Command, settings, tmp_path: Path) -> None:
    env = settings(lambda text: text + '[nodes.away]\naddress = "192.0.2.77"\nbackends = ["runc"]\n')
    away = Command(Path(env["REBERTH_CONFIG"]), reberth.state)
    assert press(away, tmp_path, "move", "away:") == []
    tried = tmp_path / "reberth/complete/node-away.tried"
    deadline = time.monotonic() + PATIENCE_S
    while not tried.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    first = tried.stat().st_mtime_ns
    assert press(away, tmp_path, "move", "away:") == []
    assert tried.stat().st_mtime_ns == first
    end_all_of(tmp_path)
