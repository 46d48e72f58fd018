"""`make soak`: trees that fork, unmap, madvise and mremap all the time, restored lazily; a line of JSON for each move.

Usage: python tests/live/faults/churn.py [--count N] [--first N] [--mode M]... [--twin] [--log FILE]

Trees of 2, 8 and 64 processes take turns, and so do criu and runc (and post-copy, when asked). After each
move every process compares all of its pages. With `--twin` something holds copies of
the daemon's descriptors, as this project did until 2026-12-01: the fill must stand still, or nothing was tried.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from livekit import churn
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import keep_pids_apart, remove_empty_cgroups

from faults.kills import say
from reberth_lab.lab import Lab
from reberth_lab.node import Node

MIB = 72  # from 64 on a restore is lazy
PROCESSES, MODES, BACKENDS = (2, 8, 64), ("post-copy", "stop-and-copy"), ("criu", "runc")
USUAL = ("stop-and-copy",)  # in post-copy criu 4.2.1 loses requests whose begin is unmapped: decision 027
KINDS = [(p, m, b) for m, b, p in itertools.product(MODES, BACKENDS, PROCESSES)]
LIMIT_S = 300.0
WENT_BACK, TRIES = 20, 5
# Copies each userfaultfd of criu lazy-pages as soon as it is there, and keeps it.
COPY = r"""
import ctypes, os, sys, time
held, libc, end_s = {}, ctypes.CDLL(None, use_errno=True), time.monotonic() + float(sys.argv[1])
while time.monotonic() < end_s:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if not open(f"/proc/{name}/cmdline", "rb").read().startswith(b"/usr/sbin/criu\0lazy-pages"):
                continue
            pidfd = os.pidfd_open(int(name))
            for fd in os.listdir(f"/proc/{name}/fd"):
                if (name, fd) not in held and os.readlink(f"/proc/{name}/fd/{fd}") == "anon_inode:[userfaultfd]":
                    held[name, fd] = libc.syscall(438, pidfd, int(fd), 0)
            os.close(pidfd)
        except OSError:
            continue
    time.sleep(0.005)
"""


@dataclass
class Moved:
    """One move and what came of it; `problems` is empty when all is right."""

    number: int
    processes: int
    mode: str
    backend: str
    code: int = 0
    seconds: float = 0.0
    turns: int = 0
    went_back: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def one_move(command: Command, tree: churn.Churn, nodes: tuple[Node, Node], one: Moved) -> None:
    """Move it, and ask it there."""
    here, there = nodes
    begun_s = time.monotonic()
    for _ in range(TRIES):
        done = command.move(tree.word(here), f"{there.name}:", "--mode", one.mode, limit_s=LIMIT_S)
        if done.code != WENT_BACK:  # a workload that starts processes all the time is a trial of its own
            break
        one.went_back.append(done.error[-200:])
    one.code, one.seconds = done.code, round(time.monotonic() - begun_s, 1)
    if done.code != 0:
        one.problems.append(str(done))
        return
    phases = [phase["name"] for phase in done.report["phases"]]
    if "fill" not in phases:
        one.problems.append(f"it was not restored lazily: {phases}")
    for _ in range(2):  # once more: what was wrong only for a moment is counted as well, and it goes on
        found = tree.verdict(there)
        if not found or found["wrong"] or not found["on"]:
            one.problems.append(f"the copy tells {found}")
        one.turns = found.get("on", 0)


def made(lab: Lab, command: Command, number: int, kind: tuple[int, str, str], twin: bool = False) -> Moved:
    """One tree from its start to its end."""
    nodes = (lab.node("node1"), lab.node("node2"))
    one = Moved(number, *kind)
    keep_pids_apart(nodes)
    watch = Watch(nodes, command.state, command.ids)
    tree = churn.start(one.backend, nodes, f"churn-{number}", one.processes, MIB)
    copier = nodes[1].spawn(["/usr/bin/python3", "-I", "-c", COPY, "120"]) if twin else 0
    try:
        one_move(command, tree, nodes, one)
    finally:
        if copier:
            nodes[1].run(["kill", "-9", str(copier)], check=False)
        if one.code not in (0, 10, 20) and command.ids:
            command.run("recover", command.ids[-1], "--rollback", "--json", limit_s=LIMIT_S)
        tree.stop(nodes)
        for node in nodes:
            remove_empty_cgroups(node)
    if not one.problems:
        try:
            watch.check()
        except AssertionError as error:
            one.problems.append(f"left behind: {error}")
    return one


def main() -> int:
    """Run them; exit status 1 when one move was not right, and with `--twin` when one was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mode", action="append", choices=MODES, default=[])
    parser.add_argument("--twin", action="store_true")
    parser.add_argument("--log", type=Path, default=Path("churn.jsonl"))
    words = parser.parse_args()
    kinds = [kind for kind in KINDS if kind[1] in (words.mode or USUAL)]
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "soak", say=lambda _: None)
    lab.down()
    lab.up(2)
    right = 0
    with tempfile.TemporaryDirectory(prefix="reberth-soak-") as place:
        command = Command(lab.config_path, Path(place))
        churn.install((lab.node("node1"), lab.node("node2")), Path(place))
        for number in range(words.first, words.first + words.count):
            kind = kinds[number % len(kinds)]
            one = made(lab, command, number, kind, words.twin)
            right += not one.problems
            with words.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(asdict(one)) + "\n")
            say(f"{number}: {kind}: exit {one.code}, {one.seconds} s {one.problems} {one.went_back}")
    lab.down()
    say(f"{right} of {words.count} right")
    return int(right != (0 if words.twin else words.count))


if __name__ == "__main__":
    sys.exit(main())
