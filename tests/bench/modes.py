"""Modes over links, side by side in one run, and how well `reberth plan` foretold each of these moves.

    python tests/bench/modes.py [--case WORDS] [--tries N] [--kind vm] [--json FILE]

The ways take turns (A B C, C B A, ...) over the same link; medians of the workload's own longest silence. What each
move was foretold is kept beside what it took. Rounds need a kernel that tracks written pages: where it does not,
`pre-copy` and `hybrid` are left out. Virtual nodes (`--kind vm`) have one, and rows of their own, as they are emulated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "live")]

import small  # noqa: E402
from bench import RATES  # noqa: E402
from livekit import stand  # noqa: E402
from loads import KINDS, Load  # noqa: E402

from reberth_lab.lab import VM, Lab  # noqa: E402

PLAIN = {"REBERTH_MODE": "stop-and-copy", "REBERTH_MEMORY_AHEAD": "false", "REBERTH_LAZY_RESTORE": "false"}
WAYS = {
    "plain": PLAIN,
    "stop-and-copy": {"REBERTH_MODE": "stop-and-copy"},
    "pre-copy": {"REBERTH_MODE": "pre-copy"},
    "hybrid": {"REBERTH_MODE": "hybrid"},
    "post-copy": {"REBERTH_MODE": "post-copy"},
}
WITHIN = 0.25


@dataclass(frozen=True)
class Row:
    """A workload of a backend over a link."""

    name: str
    kind: str
    words: tuple[str, ...]
    backend: str
    rate: str = "unlimited"


def hog(mib: int, dirty: int, backend: str, rate: str = "unlimited") -> Row:
    """Memory that looks random, so much of it written each second."""
    return Row(f"{mib} MiB, {dirty} MiB/s dirtied", "hog", (str(mib), str(dirty), "0"), backend, rate)


ROWS = (
    hog(64, 20, "criu"),
    hog(256, 20, "criu"),
    hog(256, 20, "criu", "1 Gbit/s"),
    hog(256, 20, "criu", "100 Mbit/s"),
    hog(256, 200, "criu"),
    hog(256, 200, "criu", "1 Gbit/s"),
    hog(1024, 20, "criu"),
    hog(256, 20, "runc"),
    Row("prefork tree, 32 processes", "tree", ("--processes", "32"), "criu"),
    Row("16 MiB and 5000 files", "files", ("16", "1", "0"), "runc"),
    Row("Redis, 64 MiB, 400 requests/s", "redis", (), "runc"),
)
VM_ROWS = (
    hog(256, 2, "criu"),
    hog(256, 2, "runc"),
    hog(64, 2, "criu", "100 Mbit/s"),
    hog(64, 40, "criu", "100 Mbit/s"),
)


@dataclass
class Run:
    """One move: the workload's longest silence, what the report says, and what the plan had foretold (0: nothing).

    `measured` is what the plan foretold it from.
    """

    way: str
    gap_s: float
    downtime_s: float
    total_s: float
    bytes: int
    foretold_s: float = 0.0
    measured: dict[str, Any] = field(default_factory=dict)


class Range:
    """The lab, and how one move in it is measured."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.state, self.number = lab, lab.site.state / "bench-state", 0
        self.state.mkdir(exist_ok=True)
        self.nodes = [lab.node("node1"), lab.node("node2")]
        small.install(self.nodes, self.state)
        if lab.kind == VM:
            stand.small_pages(self.nodes)

    def reberth(self, way: str, *words: str) -> dict[str, Any]:
        """The JSON of one command; RuntimeError when it failed."""
        env = {**os.environ, "REBERTH_CONFIG": str(self.lab.config_path), "XDG_STATE_HOME": str(self.state)}
        argv = [sys.executable, "-m", "reberth", *words, "--json"]
        done = subprocess.run(argv, env={**env, **WAYS[way]}, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{way}: {' '.join(words)}: {done.stdout[-1500:]} {done.stderr[-500:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def measure(self, row: Row, way: str) -> Run:
        """One move: start, plan, move, ask the workload, end it."""
        self.number += 1
        stand.keep_pids_apart(self.nodes)
        load: Load = KINDS[row.kind](self.nodes, f"modes{self.number}", row.words, row.backend)
        try:
            load.start()
            time.sleep(0.5)
            plan = self.reberth(way, "plan", load.word, "node2:", *load.options)
            load.forget()
            report = self.reberth(way, "move", load.word, "node2:", "--quiet", *load.options)
            told = (plan["predicted"].get(report["mode"]) or {}).get("downtime_s", 0.0)
            size = sum(report["bytes"].values())
            return Run(way, load.gap_s(), report["downtime_s"], report["total_s"], size, told, plan["measured"])
        finally:
            load.stop()

    def can(self) -> list[str]:
        """The ways that this kernel has."""
        stand.keep_pids_apart(self.nodes)
        load = KINDS["hog"](self.nodes, "modes0", ("16", "0", "0"), "criu")
        try:
            load.start()
            plan = self.reberth("plain", "plan", load.word, "node2:")
        finally:
            load.stop()
        return [way for way in WAYS if way == "plain" or way in plan["predicted"]]


@contextmanager
def limited(lab: Lab, rate: str) -> Iterator[None]:
    """Both links at this rate."""
    try:
        for name in ("node1", "node2"):
            lab.tbf(name, RATES[rate])
        yield
    finally:
        for name in ("node1", "node2"):
            lab.tbf(name, None)


def run_row(ground: Range, row: Row, ways: list[str], tries: int) -> list[Run]:
    """All ways in turns; one that a row cannot go is said and left out."""
    runs, ways = [], list(ways)
    with limited(ground.lab, row.rate):
        for turn in range(tries):
            for way in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
                try:
                    runs.append(ground.measure(row, way))
                except RuntimeError as error:
                    print(f"{row.name} {row.backend} {row.rate} {way}: left out: {error}", file=sys.stderr)
                    ways.remove(way)
                    continue
                one = runs[-1]
                said = f"gap {one.gap_s:.3f} s, downtime {one.downtime_s:.3f} s, foretold {one.foretold_s:.3f} s"
                print(f"{row.name} {row.backend} {row.rate} {way}: {said}", file=sys.stderr)
    return runs


def line(row: Row, runs: list[Run], ways: list[str]) -> str:
    """One row of the table: gap and total of each way, and its gap as a share of the plain one's."""
    cells, plain_s = [row.name, row.backend, row.rate], 0.0
    for way in ways:
        some = [run for run in runs if run.way == way]
        if not some:
            cells.append("-")
            continue
        gap_s, total_s = (statistics.median(getattr(run, key) for run in some) for key in ("gap_s", "total_s"))
        plain_s = gap_s if way == "plain" else plain_s
        share = f" ({gap_s / plain_s:.2f})" if plain_s and way != "plain" else ""
        cells.append(f"{gap_s:.3f} s{share}, {total_s:.1f} s")
    return f"| {' | '.join(cells)} |"


def foretold(runs: list[Run]) -> str:
    """How far the downtime was from what had been foretold, by way: the shares of taken by foretold, in their order."""
    lines = [f"| way | runs | within {WITHIN:.0%} | taken / foretold, least, quarter, half, three quarters, most |"]
    lines.append("|---|---|---|---|")
    for way in [*dict.fromkeys(run.way for run in runs), "all"]:
        some = sorted(r.downtime_s / r.foretold_s for r in runs if r.foretold_s and way in (r.way, "all"))
        if some:
            close = sum(1 - WITHIN <= share <= 1 + WITHIN for share in some)
            marks = (some[round(part * (len(some) - 1) / 4)] for part in range(5))
            lines.append(f"| {way} | {len(some)} | {close} | {', '.join(f'{share:.2f}' for share in marks)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the rows, print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", default="", help="only rows whose words contain this, such as 'criu unlimited'")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--kind", help="of the lab; vm has rounds, and is emulated: only ratios count")
    parser.add_argument("--json", type=Path, help="keep every run; runs that are there already count in the tables")
    chosen = parser.parse_args()
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "bench", say=lambda _: None)
    lab.up(2, kind=chosen.kind)
    kept = json.loads(chosen.json.read_text()) if chosen.json and chosen.json.exists() else []
    found = [(Row(**{**one["row"], "words": tuple(one["row"]["words"])}), Run(**one["run"])) for one in kept]
    try:
        ground = Range(lab)
        ways = ground.can()
        for row in VM_ROWS if chosen.kind == VM else ROWS:
            if chosen.case in f"{row.name} {row.backend} {row.rate}":
                found += [(row, run) for run in run_row(ground, row, ways, chosen.tries)]
                if chosen.json:
                    kept = [{"row": asdict(row), "run": asdict(run)} for row, run in found]
                    chosen.json.write_text(json.dumps(kept, indent=1) + "\n")
    finally:
        lab.down()
    print(f"kernel {platform.release()}, {os.cpu_count()} processors, {time.strftime('%Y-%m-%d')}\n")
    print(f"| workload | backend | link | {' | '.join(f'{way}: gap, total' for way in ways)} |")
    print("|---" * (3 + len(ways)) + "|")
    for row in dict.fromkeys(row for row, _ in found):
        print(line(row, [run for one, run in found if one == row], ways))
    print("\n" + foretold([run for _, run in found]))


if __name__ == "__main__":
    main()
