"""The programs that the live tests move: each is sound as it is, and each planted loss is found and named."""

from __future__ import annotations

import json
import os
import signal
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
    "echo": [],
    "clocks": [],
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
    ("tcp", "close", "connection 3"),
    ("tcp", "option", "TCP_NODELAY"),
    ("tcp", "server", "connection"),
    ("tcp", "listener", "new connection"),
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
    ("clocks", "back", "CLOCK_MONOTONIC went on by -"),
    ("clocks", "ahead", "CLOCK_MONOTONIC went on by 100."),
    ("clocks", "timer", "the timer is due"),
    ("clocks", "nap", "a nap does not end"),
]

# Each thing of ipc is on its own, so all can be spoiled at once: name -> a word of its problem.
IPC_PLANTS = {
    "pipe": "pipe of",
    "packet-pipe": "packets",
    "socketpair": "socket pair",
    "datagrams": "datagrams",
    "seqpacket": "seqpacket",
    "named-socket": "named-socket",
    "abstract-socket": "abstract-socket",
    "peer-name": "name of the peer",
    "descriptor-in-flight": "descriptors in flight",
    "timerfd": "the long timerfd",
    "timerfd-fast": "the fast timerfd",
    "itimer": "itimer",
    "posix-timer": "posix timer",
    "pending-signals": "queued signals",
    "signalfd": "signalfd",
    "eventfd": "eventfd: 3456789013",
    "eventfd-large": "eventfd: 123456789013",
    "epoll": "epoll",
    "inotify": "inotify",
    "attributes": "umask",
}

Start = Callable[..., tuple[int, Path]]


def ask(question: str, pid: int, directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Ask as the driver does, by a program of its own."""
    command = [*COMMAND, "ask", question, "--pid", str(pid), "--dir", str(directory), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def answer(pid: int, number: int, path: Path) -> str:
    """Ask by a bare signal, which saves the start of a program."""
    path.unlink(missing_ok=True)
    os.kill(pid, number)
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, "no answer"
        time.sleep(0.005)
    return path.read_text()


def verify(pid: int, directory: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(answer(pid, signal.SIGUSR1, directory / "result.json"))
    return result


def plant(pid: int, directory: Path, what: str) -> str:
    (directory / "plant").write_text(what)
    return answer(pid, signal.SIGUSR2, directory / "planted")


def stop(pid: int) -> None:
    """End it by SIGTERM, as ``ask stop`` does first; its children must go with it."""
    if not Path(f"/proc/{pid}").exists():
        return
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}/exe").exists():  # a zombie has none
        assert time.monotonic() < end, f"process {pid} does not end"
        time.sleep(0.005)


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
    for pid, _ in running:
        stop(pid)


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "planted", "word"), PLANTS, ids=[f"{kind}-{what}" for kind, what, _ in PLANTS])
def test_planted_loss_is_found_and_named(start: Start, kind: str, planted: str, word: str) -> None:
    pid, directory = start(kind)
    time.sleep(0.15)
    planting = plant(pid, directory, planted)
    if planted in ("owner", "xattr") and planting != "planted":
        pytest.skip(f"not possible here: {planting}")
    assert planting == "planted"
    time.sleep(0.1)
    result = verify(pid, directory)
    assert not result["ok"]
    assert any(word in problem for problem in result["problems"]), result["problems"]


@pytest.mark.slow
def test_each_thing_of_ipc_is_missed(start: Start) -> None:
    pid, directory = start("ipc", "--only", ",".join(IPC_PLANTS))
    time.sleep(0.2)
    sound = verify(pid, directory)
    assert sound["ok"], sound["problems"]
    for planted in IPC_PLANTS:
        assert plant(pid, directory, planted) == "planted"
    problems = verify(pid, directory)["problems"]
    for planted, word in IPC_PLANTS.items():
        assert any(word in problem for problem in problems), (planted, problems)


def test_every_plant_of_every_workload_has_its_twin() -> None:
    code = "import json; from workloads.cli import KINDS; print(json.dumps({k: v.plants for k, v in KINDS.items()}))"
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, check=True, cwd=FOLDER.parent)
    known = {(kind, planted) for kind, plants in json.loads(done.stdout).items() for planted in plants}
    assert known == {(kind, planted) for kind, planted, _ in PLANTS} | {("ipc", planted) for planted in IPC_PLANTS}


def test_stopped_process_counts_as_silence(start: Start) -> None:
    pid, directory = start("memory")
    time.sleep(0.1)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.05)
    longest = verify(pid, directory)["gaps"][0]
    assert 0.25 < longest["seconds"] < 0.6
    assert abs(longest["end"] - longest["begin"] - longest["seconds"]) < 0.001
    assert plant(pid, directory, "forget-gaps") == "planted"
    assert all(gap["seconds"] < 0.2 for gap in verify(pid, directory)["gaps"])


def test_stale_file_under_a_silence_is_found_at_once(start: Start) -> None:
    """What a late delta would do: the file is damaged while the writer is frozen, and later covered by new writes."""
    pid, directory = start("fswriter")
    time.sleep(0.2)
    os.kill(pid, signal.SIGSTOP)
    victim = sorted((directory / "tree" / "files").iterdir())[0]
    times = victim.stat()
    data = victim.read_bytes()
    victim.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    time.sleep(0.1)
    os.kill(pid, signal.SIGCONT)
    time.sleep(0.2)
    victim.write_bytes(data)
    result = verify(pid, directory)
    assert not result["ok"]
    assert any("silence" in problem and victim.name in problem for problem in result["problems"]), result["problems"]


@pytest.mark.slow
def test_asking_by_program(start: Start) -> None:
    pid, directory = start("memory")
    sound = ask("verify", pid, directory)
    assert (sound.returncode, json.loads(sound.stdout)["ok"]) == (0, True)
    assert ask("plant", pid, directory, "--what", "no-such-thing").returncode == 1
    assert ask("plant", pid, directory, "--what", "byte").stdout.strip() == "planted"
    assert ask("verify", pid, directory).returncode == 1
    os.kill(pid, signal.SIGKILL)
    ended = ask("verify", pid, directory)
    assert ended.returncode == 1
    assert "has ended" in json.loads(ended.stdout)["problems"][0]
