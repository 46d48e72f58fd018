"""`make soak`: the whole fault matrix, case after case, with figures at the end; each result is a line of JSON.

Usage: python tests/live/faults/soak.py [--seed N] [--hours H] [--only WORD]... [--but WORD]... [--log FILE] [--tally]

What the log has already is not done again, so hours of it can be made in parts; the table is of the whole log.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from livekit.command import Command

from faults.cases import generate
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
    parser.add_argument("--tally", action="store_true", help="only show the table of the log")
    return parser.parse_args()


def main() -> int:
    """All cases that are missing, in an order of the seed's; exit status 1 when one of the log broke a promise."""
    words = arguments()
    left = 0 if words.tally else run(words)
    results = read(words.log)
    say("\n".join(table(results)))
    if left:
        say(f"{left} cases are not run yet")
    return 1 if any(result["problems"] for result in results) else 0


def run(words: argparse.Namespace) -> int:
    """Make cases until time is up; returns how many are left."""
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "soak", say=lambda _: None)
    lab.down()
    lab.up(2)
    end_s = time.monotonic() + words.hours * 3600
    with tempfile.TemporaryDirectory(prefix="reberth-soak-") as place:
        chance = random.Random(words.seed)
        field = Field(lab, Command(lab.config_path, Path(place)), chance)
        cases = [case for backend in BACKENDS for case in generate(backend, good_journal(field, backend))]
        cases = [case for case in cases if all(word in case.id for word in words.only)]
        cases = [case for case in cases if not any(word in case.id for word in words.but)]
        chance.shuffle(cases)
        known = {result["case"] for result in read(words.log)}
        missing = [case for case in cases if case.id not in known]
        say(f"seed {words.seed}: {len(missing)} of {len(cases)} cases")
        done = 0
        for case in missing:
            if time.monotonic() > end_s:
                break
            result = run_case(field, case)
            with words.log.open("a", encoding="utf-8") as log:
                log.write(as_json(result) + "\n")
            done += 1
            say(f"{done}/{len(missing)} {case.id}: {told(result)}")
    lab.down()
    return len(missing) - done


def read(log: Path) -> list[dict[str, Any]]:
    """The results of a log."""
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []


def told(result: Result) -> str:
    """One result in a few words."""
    ends = [result.code, *result.recovered]
    text = f"exit {' then '.join(map(str, ends))}, {result.outcome or 'nothing begun'}, {result.seconds:.1f} s"
    return text + "".join(f"\n    PROBLEM: {problem}" for problem in result.problems)


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """The figures for docs/reliability.md: a row for each kind of fault and backend."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        backend, fault = kind(result["case"])
        rows.setdefault((fault, backend), []).append(result)
    lines = [
        "| fault | backend | cases | exit codes | moved | rolled back | broken promises |",
        "|---|---|---|---|---|---|---|",
    ]
    for (fault, backend), some in sorted(rows.items()):
        codes = Counter(result["code"] for result in some)
        shown = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
        moved = sum(result["outcome"] == "moved" for result in some)
        broken = sum(bool(result["problems"]) for result in some)
        lines.append(f"| {fault} | {backend} | {len(some)} | {shown} | {moved} | {len(some) - moved} | {broken} |")
    total = sum(result["seconds"] for result in results)
    return [*lines, f"{len(results)} cases, {total / 60:.0f} minutes"]


def kind(case: str) -> tuple[str, str]:
    """Backend and fault of a case's name, as the table groups them."""
    backend, _, rest = case.partition("-")
    found = re.match(r"(.+?)-(?:before|after|at|in)-\d", rest)
    return backend, found[1] if found else rest


def say(text: str) -> None:
    """Progress, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
