"""`make soak`: the whole fault matrix, case after case, with figures at the end; each result is a line of JSON.

Usage: python tests/live/faults/soak.py [--seed N] [--hours H] [--only WORD]... [--but WORD]... [--log FILE]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from livekit.command import Command

from faults.cases import Case, generate
from faults.run import Field, Result, as_json, good_journal, run_case
from reberth_lab.lab import Lab

BACKENDS = ("criu", "runc")


def arguments() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=int(os.environ.get("REBERTH_FAULT_SEED", "1")))
    parser.add_argument("--hours", type=float, default=float(os.environ.get("REBERTH_SOAK_HOURS", "6")))
    parser.add_argument("--only", action="append", default=[], help="cases whose name has this word")
    parser.add_argument("--but", action="append", default=[], help="not those whose name has this word")
    parser.add_argument("--log", type=Path, default=Path("soak.jsonl"))
    return parser.parse_args()


def main() -> int:
    """All cases in an order of the seed's; exit status 1 when one of them broke a promise."""
    words = arguments()
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "soak", say=lambda _: None)
    lab.down()
    lab.up(2)
    results: list[Result] = []
    end_s = time.monotonic() + words.hours * 3600
    with tempfile.TemporaryDirectory(prefix="reberth-soak-") as place, words.log.open("a", encoding="utf-8") as log:
        chance = random.Random(words.seed)
        field = Field(lab, Command(lab.config_path, Path(place)), chance)
        cases = [case for backend in BACKENDS for case in generate(backend, good_journal(field, backend))]
        cases = [case for case in cases if all(word in case.id for word in words.only)]
        cases = [case for case in cases if not any(word in case.id for word in words.but)]
        chance.shuffle(cases)
        say(f"seed {words.seed}: {len(cases)} cases")
        for number, case in enumerate(cases, 1):
            if time.monotonic() > end_s:
                say(f"the time is up after {number - 1} cases")
                break
            result = run_case(field, case)
            results.append(result)
            log.write(as_json(result) + "\n")
            log.flush()
            say(f"{number}/{len(cases)} {case.id}: {told(result)}")
    lab.down()
    say("\n".join(table(results)))
    return 1 if any(result.problems for result in results) else 0


def told(result: Result) -> str:
    """One result in a few words."""
    ends = [result.code, *result.recovered]
    text = f"exit {' then '.join(map(str, ends))}, {result.outcome or 'nothing begun'}, {result.seconds:.1f} s"
    return text + "".join(f"\n    PROBLEM: {problem}" for problem in result.problems)


def table(results: Sequence[Result]) -> list[str]:
    """The figures for docs/reliability.md: a row for each kind of fault and backend."""
    rows: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        rows.setdefault((kind(result.case), result.case.backend), []).append(result)
    lines = [
        "| fault | backend | cases | exit codes | moved | rolled back | broken promises |",
        "|---|---|---|---|---|---|---|",
    ]
    for (fault, backend), some in sorted(rows.items()):
        codes = Counter(result.code for result in some)
        shown = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
        moved = sum(result.outcome == "moved" for result in some)
        broken = sum(bool(result.problems) for result in some)
        lines.append(f"| {fault} | {backend} | {len(some)} | {shown} | {moved} | {len(some) - moved} | {broken} |")
    total = sum(result.seconds for result in results)
    return [*lines, f"{len(results)} cases, {total / 60:.0f} minutes"]


def kind(case: Case) -> str:
    """The fault as the table names it."""
    return f"{case.fault} ({case.moment})" if case.fault == "controller" else case.fault


def say(text: str) -> None:
    """Progress, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
