"""`make soak`: the source loses its power, alone or together with the controller, at seven moments of a move.

Usage: python tests/live/faults/power.py [--backend NAME]... [--log FILE] [--tally]

The node's processes are gone at once, its disk stays, and it comes back with another boot id. Then `recover`. Where a
whole copy was held when the power went, it must run on the target in the end, every byte of its memory right, and the
witness must never see two. Before that the workload ends with its node, as every program does, and the run must say so.
What the log has already is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from livekit.command import PLAIN, Command, Done
from livekit.stand import gone, word_of
from workloads import driver
from workloads.driver import Handle

from faults import reboot
from faults.cases import Case, Point, points
from faults.run import Field, Result, Trial, good_journal
from faults.witness import Witness, turns
from reberth_lab.lab import Lab

MOMENTS = ("final-dump", "final-transfer", "restore", "commit", "ask-ready", "permit", "commit-source")
HELD = MOMENTS[3:]  # a whole copy is held, or has landed, from here on
WHO = ("source", "both")
BACKENDS = ("criu", "runc")
ALONE_S = 12.0  # a node that hears of no controller for 10 s acts by itself
CODES = {20, 21, 40, 41}


class Cut(Trial):
    """One move in which the source loses its power while the controller stands at a phase or step."""

    def __init__(self, field_: Field, backend: str, point: Point, who: str) -> None:
        super().__init__(field_, Case(backend, f"power-{who}", point.at, point.name, "at", point.stage))
        self.both = who == "both"
        self.whole = point.name in HELD or (point.name == "restore" and not self.both)

    def _move(self, handle: Handle) -> Done:
        env = {**self.field.env, **self.field.piped(), "REBERTH_CRASH_AT": f"{self.case.at}:stop"}
        words = ("move", *PLAIN, "--json", "--", word_of(self.source, handle), f"{self.target.name}:")
        process = self.field.command.start(*words, env=env)
        try:
            self._wait_for_stop(process)
            place = Path(tempfile.mkdtemp(prefix="power-", dir=self.field.command.state))
            self.undo.append(reboot.crash(self.field.lab, self.source, place))
            if self.both:
                process.kill()
                process.communicate()
                time.sleep(ALONE_S)
                self.result.code = -9
                return Done(-9, {}, "", "")
            process.send_signal(signal.SIGCONT)
            done = self.field.command.finish(process)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        self.result.code, self.result.outcome = done.code, str(done.report.get("outcome", ""))
        if done.code not in CODES:
            self.result.problems.append(f"it ended with {done.code}, not one of {sorted(CODES)}: {done}")
        return done

    def _settle(self, done: Done) -> None:
        """The node comes back; nothing is typed but `recover`."""
        self._put_back()
        run_id = str(done.report.get("id") or self.field.newest())
        self.field.command.ids.append(run_id)
        for _ in range(2):
            found = self.field.command.run("recover", run_id, "--json")
            runs = found.report.get("runs") or [found.report]
            self.result.recovered.append(found.code)
            self.result.outcome = str(runs[0].get("outcome", self.result.outcome))
            if found.code in (0, 21):
                return
            time.sleep(1.0)
        self.result.problems.append(f"recover ended with {self.result.recovered}: {found}")

    def _judge(self, handle: Handle, witness: Witness) -> None:
        outcome, problems = self.result.outcome, self.result.problems
        if outcome == "moved":
            found = driver.verify(self.target, handle)
            if not found["ok"]:
                problems.append(f"the copy is not well: {found['problems']}")
        elif self.whole or outcome not in ("ended", "refused"):
            problems.append(f"the run says {outcome!r}, though a whole copy was held: {self.whole}")
        elif not gone(self.target, handle):
            problems.append("something of it is left on the target")
        if not gone(self.source, handle):
            problems.append("something of it runs on the source")
        self.result.ran = turns(witness.stop())
        if self.result.ran not in ([0], [0, 1], [1], []):
            problems.append(f"who ran, in order: {self.result.ran}")

    def _leftovers(self, watch: Any) -> None:
        reboot.forget(self.source)


def cut(field_: Field, journal: Sequence[dict[str, Any]], backend: str, moment: str, who: str) -> Result:
    """Make one cut and judge it."""
    point = next(p for p in points(journal) if p.begins and p.name == moment)
    return Cut(field_, backend, point, who).run()


def arguments() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", action="append", choices=BACKENDS, default=[])
    parser.add_argument("--log", type=Path, default=Path("power.jsonl"))
    parser.add_argument("--tally", action="store_true", help="only show the table of the log")
    return parser.parse_args()


def read(log: Path) -> list[dict[str, Any]]:
    """The results of a log."""
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []


def run(words: argparse.Namespace) -> None:
    """Make the cuts that the log does not have."""
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "soak", say=lambda _: None)
    lab.down()
    lab.up(2)
    known = {(one["backend"], one["moment"], one["who"]) for one in read(words.log)}
    with tempfile.TemporaryDirectory(prefix="reberth-soak-") as place:
        field_ = Field(lab, Command(lab.config_path, Path(place)), random.Random(1))
        for backend in words.backend or BACKENDS:
            journal = good_journal(field_, backend)
            for moment, who in ((moment, who) for moment in MOMENTS for who in WHO):
                if (backend, moment, who) in known:
                    continue
                result = cut(field_, journal, backend, moment, who)
                line = {"backend": backend, "moment": moment, "who": who, **result.__dict__, "case": result.case.id}
                with words.log.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(line) + "\n")
                ends = " then ".join(map(str, [result.code, *result.recovered]))
                say(f"{result.case.id}: exit {ends}, {result.outcome}, {result.seconds:.0f} s {result.problems or ''}")
    lab.down()


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """The figures for docs/reliability.md."""
    lines = [
        "| power lost at | by | backend | exit, then `recover` | end | broken promises |",
        "|---|---|---|---|---|---|",
    ]
    for one in sorted(results, key=lambda one: (MOMENTS.index(one["moment"]), one["who"], one["backend"])):
        ends = ", ".join(map(str, [one["code"], *one["recovered"]]))
        words = (one["moment"], one["who"], one["backend"], ends, one["outcome"], str(len(one["problems"])))
        lines.append(f"| {' | '.join(words)} |")
    return [*lines, f"{len(results)} cuts, {sum(bool(one['problems']) for one in results)} with a broken promise"]


def say(text: str) -> None:
    """Progress, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """All cuts that are missing; exit status 1 when one of the log broke a promise."""
    words = arguments()
    if not words.tally:
        run(words)
    results = read(words.log)
    say("\n".join(table(results)))
    return 1 if any(one["problems"] for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
