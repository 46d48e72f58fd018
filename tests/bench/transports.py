"""How memory travels, side by side in one run: ahead of the freeze, after it, and by criu's page servers.

    python tests/bench/transports.py [--case WORDS] [--tries N]

The ways take turns (A B C, C B A, ...) over the same link; medians of the workload's own longest silence. Ratios count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from bench import RATES, Bench, Case, Run  # noqa: E402

from reberth_lab.lab import Lab  # noqa: E402

LISTED = ('transports = ["ssh"]', 'transports = ["page-server", "ssh"]')
MODE = '\n[defaults]\nmode = "stop-and-copy"\n'
PLAIN = "memory_ahead = false\n"
CASES = [
    Case("256 MiB, 20 MiB/s dirtied", "criu", "unlimited"),
    Case("256 MiB, 20 MiB/s dirtied", "criu", "1 Gbit/s"),
    Case("256 MiB, 20 MiB/s dirtied", "runc", "unlimited"),
    Case("idle 16 MiB", "criu", "unlimited"),
]


def run_case(bench: Bench, case: Case, ways: dict[str, str], tries: int) -> dict[str, list[Run]]:
    """All ways in turns."""
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for node in bench.nodes:
        bench.lab.tbf(node.name, RATES[case.rate])
    try:
        for turn in range(tries):
            for way in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
                bench.env["REBERTH_CONFIG"] = ways[way]
                runs[way].append(bench.measure(case, way))
                one = runs[way][-1]
                print(f"{case.name} {case.backend} {case.rate} {way}: gap {one.gap_s:.3f} s", file=sys.stderr)
    finally:
        for node in bench.nodes:
            bench.lab.tbf(node.name, None)
    return runs


def arguments(about: str | None, tries: int) -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--case", default="", help="only rows whose words contain this, such as 'unlimited'")
    parser.add_argument("--tries", type=int, default=tries)
    return parser.parse_args()


@contextmanager
def ground() -> Iterator[tuple[Bench, Path, str]]:
    """The bench in its lab, a directory for its files, and the text of the lab's inventory."""
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "bench", say=lambda _: None)
    lab.up(2)
    state = lab.site.state / "bench-state"
    state.mkdir(exist_ok=True)
    try:
        yield Bench(lab, state), state, lab.config_path.read_text(encoding="utf-8")
    finally:
        lab.down()


def main() -> None:
    """Run the cases, print a table."""
    chosen = arguments(__doc__, 5)
    with ground() as (bench, state, text):
        compare(bench, state, text, chosen)


def compare(bench: Bench, state: Path, text: str, chosen: argparse.Namespace) -> None:
    """All cases that were chosen, a row each."""
    ways = {}
    for way, changed in {
        "ahead": text + MODE,
        "after": text + MODE + PLAIN,
        "page-server": text.replace(*LISTED) + MODE,
    }.items():
        ways[way] = str(state / f"{way}.toml")
        Path(ways[way]).write_text(changed, encoding="utf-8")
    print(
        "| workload | backend | link | "
        + " | ".join(f"{w} gap, frozen, total" for w in ways)
        + " | of ahead | of after |"
    )
    for case in CASES:
        if chosen.case not in f"{case.name} {case.backend} {case.rate}":
            continue
        runs = run_case(bench, case, ways, chosen.tries)
        gap = {way: statistics.median(r.gap_s for r in found) for way, found in runs.items()}
        cells = [case.name, case.backend, case.rate]
        for way, found in runs.items():
            frozen = statistics.median(r.report["frozen_s"] for r in found)
            total = statistics.median(r.total_s for r in found)
            cells.append(f"{gap[way]:.3f} s, {frozen:.3f} s, {total:.2f} s")
        cells += [f"{gap['page-server'] / gap[way]:.2f}" for way in ("ahead", "after")]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
