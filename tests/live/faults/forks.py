"""Workloads that start short programs all the time: each move must end well; part of `make soak`.

Usage: python tests/live/faults/forks.py [--moves N] [--only WORD]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from livekit import stand
from livekit.command import Command, Done

from reberth_lab.lab import Lab
from reberth_lab.node import Node

LOOP = "while :; do /bin/true; done"
KINDS = {
    "one-loop": LOOP,
    "sleeps": "while :; do sleep 0.01; done",
    "four-loops": f"for i in 1 2 3 4; do ({LOOP}) & done; wait",
    "eight-loops": f"for i in 1 2 3 4 5 6 7 8; do ({LOOP}) & done; wait",
    "grandchildren": "while :; do sh -c '/bin/true; /bin/true & wait'; done",
}


def move_once(nodes: Sequence[Node], command: Command, line: str, *options: str) -> tuple[Done, bool]:
    """Start the shell line on the first node, move it, end it; answer the move and whether it ran on the second."""
    stand.keep_pids_apart(nodes)
    pid = nodes[0].spawn(["sh", "-c", line])
    time.sleep(0.3)
    try:
        done = command.move(f"{nodes[0].name}:criu/{pid}", f"{nodes[1].name}:", *options)
        return done, runs(nodes[1], pid) and not runs(nodes[0], pid)
    finally:
        for node in nodes:
            end_session(node, pid)
            stand.remove_empty_cgroups(node)


def runs(node: Node, pid: int) -> bool:
    """Whether processes of this session run on a node."""
    return node.run(["pgrep", "-s", str(pid)], check=False).returncode == 0


def end_session(node: Node, pid: int) -> None:
    """End the session, again and again while it starts new processes."""
    for _ in range(50):
        if node.run(["pkill", "-9", "-s", str(pid)], check=False).returncode:
            return


def main() -> int:
    """Make the moves; exit status 1 when one did not end well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moves", type=int, default=20, help="of each kind")
    parser.add_argument("--only", default="", help="kinds whose name has this word")
    words = parser.parse_args()
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "soak", say=lambda _: None)
    lab.up(2)
    bad = 0
    with tempfile.TemporaryDirectory(prefix="reberth-forks-") as place:
        command, nodes = Command(lab.config_path, Path(place)), (lab.node("node1"), lab.node("node2"))
        for kind, line in KINDS.items():
            if words.only not in kind:
                continue
            ends: Counter[str] = Counter()
            for _ in range(words.moves):
                done, arrived = move_once(nodes, command, line)
                error = done.report.get("error") or {}
                well = done.code == 0 and arrived
                ends["moved" if well else f"{done.code} {error.get('phase')} {error.get('message')} {error}"] += 1
            bad += words.moves - ends["moved"]
            sys.stdout.write(f"{kind}: {ends['moved']} of {words.moves} moved {dict(ends)}\n")
            sys.stdout.flush()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
