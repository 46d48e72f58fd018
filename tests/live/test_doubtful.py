"""What the preflight says of odd workloads is what CRIU then does: no false "fine", and no false alarm.

Live because what criu does with an odd workload is known by asking criu.

Each program is moved with exactly the checks skipped that its state must fail. A check that is not made is a usage
error, and one more that fails is a refusal, so one run of the command tells both; what criu does is its end.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from doubtful import files, sockets, tasks  # noqa: F401
from doubtful.base import STATES
from livekit import stand
from livekit.command import Command
from livekit.stand import keep_pids_apart, remove_empty_cgroups

from reberth_lab.node import Node

HERE = Path(__file__).parent
CODE, PLACES = "/opt/doubtful", "/var/lib/doubtful"
READY_S = 20.0
CAP_SYS_RESOURCE = 1 << 24
# A process of the node that the workloads talk to.
OUTSIDE = """
import os, pty, socket, sys, time
place = sys.argv[1]
stream = socket.socket(socket.AF_UNIX)
stream.bind(place + "/outside.sock")
stream.listen()
datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
datagrams.bind(place + "/outside-datagrams.sock")
controlling, terminal = pty.openpty()
with open(place + "/.terminal", "w") as file:
    file.write(os.ttyname(terminal))
os.rename(place + "/.terminal", place + "/terminal")
kept = []
while True:
    kept.append(stream.accept())
"""
LISTENS = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", 9321))
open(sys.argv[1] + "/listens", "w").close()
time.sleep(600)
"""
NEEDS_OUTSIDE = ("unix-outside", "unix-datagrams-outside", "foreign-terminal")


@pytest.fixture
def place(request: pytest.FixtureRequest, node1: Node, node2: Node) -> Iterator[str]:
    """The program's folder on both nodes, with files that differ where their names say so."""
    kind = request.node.callspec.params["kind"]
    path = f"{PLACES}/{kind}"
    keep_pids_apart((node1, node2))
    for node in (node1, node2):
        here = node.root / path.lstrip("/")
        code = node.root / CODE.lstrip("/") / "doubtful"
        shutil.copytree(HERE / "doubtful", code, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir(parents=True)
        for name in ("one", "two", "three", "only-here", "other-size", "other-mode"):
            (here / name).write_text("text")
        (here / "beats").write_text("00000000")
        os.mkfifo(here / "pipe")
        shutil.copy(node.root / "usr/bin/true", here / "other-build")
    there = node2.root / path.lstrip("/")
    (there / "only-here").unlink()
    (there / "other-size").write_text("longer text")
    (there / "other-mode").chmod(0o600)
    change_build_id(there / "other-build")
    if kind in NEEDS_OUTSIDE:
        node1.spawn(["python3", "-c", OUTSIDE, path])
        wait_for(node1.root / path.lstrip("/") / "terminal")
    if kind == "port-taken":
        node2.spawn(["python3", "-c", LISTENS, path])
        wait_for(there / "listens")
    yield path
    for node in (node2, node1):
        node.run(["pkill", "-KILL", "-f", "--", f" {path}$"], check=False)
        ready = node1.root / path.lstrip("/") / "ready"
        if ready.exists():  # a process whose first thread has ended has no command line
            node.run(["pkill", "-KILL", "-s", ready.read_text()], check=False)
        if kind.startswith("sysv"):
            node.run(["ipcrm", "--all"])
        node.run(["rm", "-rf", "--", path])
        remove_empty_cgroups(node)


def change_build_id(path: Path) -> None:
    """Turn one byte of the note over."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0") + 16
    data[at] ^= 0xFF
    path.write_bytes(data)


def wait_for(*paths: Path) -> Path:
    """The first of these files that is there."""
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s:
        for path in paths:
            if path.exists():
                return path
        time.sleep(0.02)
    raise AssertionError(f"nothing came of {paths}")


def start(node: Node, kind: str, place: str) -> str:
    """The pid of the program, in its state; skips the test where the node's kernel has no such thing."""
    words = ["sh", "-c", f'cd {CODE} && exec python3 -S -B -m doubtful "$@"', "sh", kind, place]
    pid = node.run(words).stdout.strip()
    here = node.root / place.lstrip("/")
    found = wait_for(here / "ready", here / "error")
    if found.name == "error":
        text = found.read_text().strip().splitlines()[-1]
        if stand.not_here(text):
            pytest.skip(f"this machine's kernel gives no {kind}: {text}")
        raise AssertionError(text)
    return pid


def beats(node: Node, place: str) -> bool:
    """Whether the program runs on this node."""
    return stand.beats(node.root / place.lstrip("/") / "beats")


def has_sys_resource() -> bool:
    """Whether root here may do what CRIU needs for other users' processes."""
    words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(words["CapBnd"], 16) & CAP_SYS_RESOURCE)


@pytest.mark.parametrize("kind", STATES)
def test_the_preflight_says_what_criu_does(kind: str, place: str, reberth: Command, node1: Node, node2: Node) -> None:
    state = STATES[kind]
    checks = () if kind == "other-user" and has_sys_resource() else state.checks
    pid = start(node1, kind, place)
    skips = [word for check in checks for word in ("--skip", check)]
    done = reberth.move(f"node1:criu/{pid}", "node2:", *skips)
    failed = {c["id"] for c in done.report.get("checks", ()) if c["reason"].endswith("(skipped on request)")}
    assert failed == set(checks), str(done)
    warned = {c["id"] for c in done.report["checks"] if c["level"] == "warn"} - failed
    assert warned == set(state.warns), str(done)
    if checks:
        assert (done.code, done.report["owner"]) == (20, "source"), f"a false alarm: {done}"
        assert beats(node1, place)
    else:
        assert done.code == 0, f"a false fine: {done}"
        assert beats(node2, place)


def test_there_are_enough_of_them() -> None:
    """At least 25 that cannot move, as the issue asks."""
    assert sum(bool(state.checks) for state in STATES.values()) >= 25
