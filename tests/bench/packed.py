"""What compression gains on a slow link, and loses on a fast one: the same moves with and without, side by side.

    python tests/bench/packed.py [--case WORDS] [--tries N]

The ways take turns (A B C, C B A, ...) over the same link; medians of the workload's own longest silence, of the whole
move, and of the bytes on the source's interface. In brackets the ratio to the move without. Ratios count.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from bench import Case, Run  # noqa: E402
from transports import arguments, ground, run_case  # noqa: E402

NAME = "96 MiB of two bits a byte, 5 MiB/s dirtied"
CASES = [(Case(NAME, "criu", rate), ahead) for rate in ("100 Mbit/s", "unlimited") for ahead in ("true", "false")]
WAYS = ("none", "zstd", "zlib", "auto")


def cell(found: list[Run], plain: list[Run]) -> str:
    """Gap, total and bytes of one way, each with its ratio to the plain one's."""
    parts = []
    for name, form in (("gap_s", "{:.3f} s"), ("total_s", "{:.1f} s"), ("wire_bytes", "{:.0f} B")):
        ours, theirs = (statistics.median(getattr(run, name) for run in runs) for runs in (found, plain))
        parts.append(f"{form.format(ours)} ({ours / theirs:.2f})")
    return ", ".join(parts)


def main() -> None:
    """Run the cases, print a table."""
    chosen = arguments(__doc__, 3)
    print("| workload | link | memory ahead | " + " | ".join(f"{w}: gap, total, bytes" for w in WAYS) + " |")
    with ground() as (bench, state, text):
        for case, ahead in CASES:
            if chosen.case not in case.rate:
                continue
            ways = {way: str(state / f"{way}.toml") for way in WAYS}
            for way, path in ways.items():
                defaults = f'\n[defaults]\nmode = "stop-and-copy"\nmemory_ahead = {ahead}\ncompress = "{way}"\n'
                Path(path).write_text(text + defaults, encoding="utf-8")
            runs = run_case(bench, case, ways, chosen.tries)
            cells = [case.name, case.rate, ahead, *(cell(runs[way], runs["none"]) for way in WAYS)]
            print("| " + " | ".join(cells) + " |", flush=True)
            taken = {run.report["compress"].get("method", "none") for run in runs["auto"]}
            print(f"auto took {', '.join(sorted(taken))}", file=sys.stderr)


if __name__ == "__main__":
    main()
