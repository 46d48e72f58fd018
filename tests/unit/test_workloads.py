"""The programs that the live tests move: each is sound as it is, and each planted loss is found and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "live" / "workloads"
COMMAND = [sys.executable, "-S", "-B", str(FOLDER)]

# Small ones, so that the whole file takes seconds.
OPTIONS: dict[str, list[str]] = {
    "memory": ["--mib", "4"],
    "tree": ["--processes", "12"],
    "threads": ["--count", "6"],
    "files": ["--count", "30"],
    "tcp": ["--count", "4"],
    "ipc": [],
    "deleted": [],
    "shm": ["--pages", "8"],
    "fswriter": ["--files", "12", "--size", "4096"],
}

# What is planted -> a word of the problem that must be reported.
PLANTS: list[tuple[str, str, str]] = [
    ("memory", "byte", "memory differs"),
    ("memory", "stale-page", "memory differs"),
    ("memory", "zero-page", "memory differs"),
    ("memory", "swap-pages", "memory differs"),
    ("memory", "private-page", "private file mapping"),
    ("tree", "kill", "do not answer"),
    ("tree", "memory", "memory differs"),
    ("tree", "group", "pgid"),
    ("tree", "reap", "zombie"),
    ("tree", "continue", "stopped process"),
    ("threads", "end", "does not answer"),
    ("threads", "byte", "page differs"),
    ("threads", "sum", "running sum"),
    ("threads", "mask", "blocked signal"),
    ("threads", "lock", "got a lock"),
    ("files", "offset", "offset of file"),
    ("files", "close", "Bad file descriptor"),
    ("files", "swap", "content of file"),
    ("files", "content", "content of file"),
    ("files", "cloexec", "inheritable"),
    ("files", "twin", "shared offset"),
    ("tcp", "byte", "wrong byte"),
    ("tcp", "swallow", "wrong byte"),
    ("tcp", "close", "closed by the peer"),
    ("tcp", "option", "TCP_NODELAY"),
    ("tcp", "server", "connection"),
    ("tcp", "listener", "new connection"),
    ("ipc", "pipe", "pipe of"),
    ("ipc", "packet-pipe", "packets"),
    ("ipc", "socketpair", "socket pair"),
    ("ipc", "datagrams", "datagrams"),
    ("ipc", "seqpacket", "seqpacket"),
    ("ipc", "named-socket", "named-socket"),
    ("ipc", "abstract-socket", "abstract-socket"),
    ("ipc", "peer-name", "peer"),
    ("ipc", "descriptor-in-flight", "descriptors in flight"),
    ("ipc", "timerfd", "timerfd"),
    ("ipc", "timerfd-fast", "timerfd"),
    ("ipc", "itimer", "itimer"),
    ("ipc", "posix-timer", "posix timer"),
    ("ipc", "pending-signals", "queued signals"),
    ("ipc", "signalfd", "signalfd"),
    ("ipc", "eventfd", "eventfd"),
    ("ipc", "eventfd-large", "eventfd"),
    ("ipc", "epoll", "epoll"),
    ("ipc", "inotify", "inotify"),
    ("ipc", "attributes", "umask"),
    ("deleted", "byte", "deleted file 4"),
    ("deleted", "truncate", "deleted file 4"),
    ("deleted", "offset", "offset of deleted"),
    ("deleted", "mapped", "descriptor"),
    ("deleted", "close", "Bad file descriptor"),
    ("shm", "anonymous", "anonymous: differs"),
    ("shm", "memfd", "memfd: differs"),
    ("shm", "seals", "seals"),
    ("shm", "unshare", "differs"),
    ("shm", "child", "does not answer"),
    ("fswriter", "stale-content", "differs at 0"),
    ("fswriter", "stale-mapped", "differs at 0"),
    ("fswriter", "mtime", "mtime_ns"),
    ("fswriter", "mode", "mode"),
    ("fswriter", "owner", "owner"),
    ("fswriter", "xattr", "extended attributes"),
    ("fswriter", "broken-link", "link"),
    ("fswriter", "swap", "differs"),
    ("fswriter", "missing", "missing"),
    ("fswriter", "extra", "must not exist"),
    ("fswriter", "descriptor", "another file"),
    ("fswriter", "orphan", "deleted open file"),
    ("fswriter", "special", "special"),
]

Start = Callable[..., tuple[int, Path]]


def ask(question: str, pid: int, directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "ask", question, "--pid", str(pid), "--dir", str(directory), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def verify(pid: int, directory: Path) -> dict[str, Any]:
    done = ask("verify", pid, directory)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if result["ok"] else 1)
    return result


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[tuple[int, Path]] = []

    def _start(kind: str, *options: str) -> tuple[int, Path]:
        directory = tmp_path / kind
        command = [*COMMAND, kind, "--dir", str(directory), *(options or OPTIONS[kind])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        running.append((int(done.stdout), directory))
        return running[-1]

    yield _start
    for pid, directory in running:
        stopped = ask("stop", pid, directory)
        assert stopped.returncode == 0, stopped.stderr


@pytest.mark.parametrize("kind", OPTIONS)
def test_sound_workload_verifies_again_and_again(start: Start, kind: str) -> None:
    pid, directory = start(kind)
    time.sleep(0.3)
    for serial in (1, 2, 3):
        result = verify(pid, directory)
        assert result["ok"], result["problems"]
        assert result["serial"] == serial
        time.sleep(0.1)
    assert result["beats"] > 50
    assert sum(result["checks"].values()) > 0


@pytest.mark.parametrize(("kind", "planted", "word"), PLANTS, ids=[f"{kind}-{what}" for kind, what, _ in PLANTS])
def test_planted_loss_is_found_and_named(start: Start, kind: str, planted: str, word: str) -> None:
    pid, directory = start(kind, *(["--only", planted] if kind == "ipc" else []))
    time.sleep(0.15)
    done = ask("plant", pid, directory, "--what", planted)
    if planted in ("owner", "xattr") and done.returncode:
        pytest.skip(f"not possible here: {done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    time.sleep(0.1)
    result = verify(pid, directory)
    assert not result["ok"]
    assert any(word in problem for problem in result["problems"]), result["problems"]


def test_every_plant_of_every_workload_has_its_twin() -> None:
    code = "from workloads.cli import KINDS; print([(k, p) for k, v in KINDS.items() for p in v.plants])"
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert sorted((kind, planted) for kind, planted, _ in PLANTS) == sorted(eval(done.stdout))


def test_stopped_process_counts_as_silence(start: Start) -> None:
    pid, directory = start("memory")
    time.sleep(0.1)
    os.kill(pid, 19)
    time.sleep(0.3)
    os.kill(pid, 18)
    time.sleep(0.05)
    longest = verify(pid, directory)["gaps"][0]
    assert 0.25 < longest["seconds"] < 0.6
    assert abs(longest["end"] - longest["begin"] - longest["seconds"]) < 0.001
    assert ask("plant", pid, directory, "--what", "forget-gaps").returncode == 0
    assert all(gap["seconds"] < 0.2 for gap in verify(pid, directory)["gaps"])


def test_stale_file_under_a_silence_is_found_at_once(start: Start) -> None:
    """What a late delta would do: the file is damaged while the writer is frozen, and later covered by new writes."""
    pid, directory = start("fswriter")
    time.sleep(0.2)
    os.kill(pid, 19)
    victim = sorted((directory / "tree" / "files").iterdir())[0]
    times = victim.stat()
    data = victim.read_bytes()
    victim.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    time.sleep(0.1)
    os.kill(pid, 18)
    time.sleep(0.2)
    victim.write_bytes(data)
    result = verify(pid, directory)
    assert not result["ok"]
    assert any("silence" in problem and victim.name in problem for problem in result["problems"]), result["problems"]


def test_ended_workload_is_not_sound(start: Start) -> None:
    pid, directory = start("memory")
    os.kill(pid, 9)
    result = verify(pid, directory)
    assert not result["ok"]
    assert "has ended" in result["problems"][0]
