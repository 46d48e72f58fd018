"""LXD: `reberth move` beside plain `lxc move`, in turns: the container's own longest silence, the total, the bytes.

    python tests/bench/lxd.py [--tries N] [--mebibytes N ...]

A container that was restored cannot be dumped again by this liblxc, so each move has a fresh one. Stop-and-copy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "live")]

from bench import wire_bytes  # noqa: E402
from livekit import lxd as kit  # noqa: E402

from reberth_lab.lab import Lab  # noqa: E402
from reberth_lab.node import Node  # noqa: E402

NAME = "c1"
WAYS = ("lxc move", "reberth move")
HEAD = ("memory", "by", "longest silence, s", "until the command ends, s", "bytes on the wire, MB")
Figures = tuple[float, float, float]


def move(way: str, lab: Lab, nodes: Sequence[Node]) -> None:
    """By the client on the source, or by reberth on this machine; raises CalledProcessError with what it said."""
    if way == WAYS[0]:
        kit.lxc(nodes[0], "move", NAME, f"node2:{NAME}")
        return
    words = ["move", f"node1:lxd/{NAME}", "node2:", "--json", "--quiet"]
    env = {**os.environ, "REBERTH_CONFIG": str(lab.config_path), "XDG_STATE_HOME": str(lab.site.state / "bench-state")}
    done = subprocess.run([sys.executable, "-m", "reberth", *words], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-1000:] + done.stderr[-1000:])
    assert json.loads(done.stdout)["outcome"] == "moved"


def measure(way: str, lab: Lab, nodes: Sequence[Node], mebibytes: int) -> Figures:
    """One move of a fresh container: its silence in s, the command's time in s, millions of bytes."""
    kit.delete(nodes, NAME)
    kit.launch(nodes[0], NAME, "-c", "migration.incremental.memory=false", mebibytes=mebibytes)
    time.sleep(1.0)
    before = kit.healthy(nodes[0], NAME)  # asking it begins a new record of silences
    sent, begun = wire_bytes(nodes[0]), time.monotonic()
    move(way, lab, nodes)
    total_s, sent = time.monotonic() - begun, wire_bytes(nodes[0]) - sent
    after = kit.healthy(nodes[1], NAME, before, late=False)  # a plain `lxc move` may lose late writes
    kit.delete(nodes, NAME)
    return float(after["longest_silence_s"]), total_s, sent / 1e6


def row(mebibytes: int, way: str, found: Sequence[Figures]) -> str:
    """Medians and extremes."""
    cells = [f"{statistics.median(one):.2f} ({min(one):.2f} to {max(one):.2f})" for one in zip(*found, strict=True)]
    return f"| {' | '.join([f'{mebibytes} MiB', f'`{way}`', *cells])} |"


def main() -> None:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--mebibytes", type=int, nargs="+", default=[16, 256])
    chosen = parser.parse_args()
    lab = Lab(f"{(os.environ.get('REBERTH_LAB_NAME') or 'bench')[:8]}x", say=lambda _: None)
    lab.up(2, with_parts=("lxd",))
    nodes = [lab.node(name) for name in ("node1", "node2")]
    rows = []
    try:
        for mebibytes in chosen.mebibytes:
            found: dict[str, list[Figures]] = {way: [] for way in WAYS}
            for turn in range(chosen.tries):
                for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
                    found[way].append(measure(way, lab, nodes, mebibytes))
                    print(f"{mebibytes} MiB {way}: {found[way][-1]}", file=sys.stderr, flush=True)
            rows += [row(mebibytes, way, found[way]) for way in WAYS]
    finally:
        lab.down()
    print("\n".join([f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", *rows]))


if __name__ == "__main__":
    main()
