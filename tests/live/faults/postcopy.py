"""`make soak`: a post-copy breaks off at a random moment, so many times for each fault; each run is a line of JSON.

Usage: python tests/live/faults/postcopy.py [--seed N] [--count N] [--minutes M] [--fault NAME]... [--log FILE]
                                             [--tally]

The moment is the seed's: uniform over the life of criu's lazy-pages daemon in a post-copy without a fault, in which the
copy is built, runs, and gets its pages over a slow link. Backends take turns. A held run is judged while it is held
(nobody runs, no page is wrong, the source has all of them), then `recover --forward` and `--rollback` end it. What the
log has already is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from livekit.command import Command, Done
from livekit.filling import SLOW_BIT_S, memory_base, memory_there, state_of
from livekit.snapshot import Watch
from livekit.stand import Stand, word_of
from workloads import driver
from workloads.driver import Handle

from faults import reboot, strangers, strike
from faults.cases import SIDES, Case
from faults.kills import BACKENDS, DEAD_S, Struck, lived, read, say
from faults.run import Field, Result, Trial
from faults.strike import Found
from reberth_lab.lab import Lab
from reberth_lab.node import Node

MIB = 16
WORDS = ("pulse", "--mib", str(MIB), "--rate", "0.5")
LIFE_S = 4.0  # of the daemon, where none was measured: so long the slow link takes for these pages
APPEAR_S, STRUCK_S = 60.0, 60.0
OUTAGE_S = 15.0
UNHEARD_S = 200.0  # after a cut TCP asks again only every two minutes (TCP_RTO_MAX), and so sshd hears of its client
CUT_OFF_S = 90.0  # the target's own time-out is 60 s without a page
GIVE_UP = 20
HELD = {-9, 40, 41, 42, 50}
ANY = frozenset({0, 20, 40, 41, 50})  # 0 is for what came when all pages were in
CODES = {
    "daemon": ANY,
    "server": ANY,
    "helper-source": ANY,
    "helper-target": ANY,
    "link-15s": ANY,
    "link-gone": ANY,
    "target": ANY,
    "controller": frozenset({-9}),
    "strangers": frozenset({0}),
}


@dataclass
class Break(Struck):
    """One fault in a post-copy; `resolved` are the words given to `recover`, each with its exit code."""

    fault: str = ""
    resolved: list[str] = field(default_factory=list)
    told: str = ""


def chosen(fault: str, number: int, seed: int) -> Break:
    """Everything that is left to chance, from the seed alone; `delay_s` is a share of the daemon's life yet."""
    chance = random.Random(f"{seed}/{fault}/{number}")
    return Break(number, seed, BACKENDS[number % 2], chance.choice(SIDES), chance.random(), fault=fault)


class Breach(Trial):
    """One post-copy, the fault in it, its end and the judge; the fault `none` tells how long the daemon lives."""

    def __init__(self, field_: Field, one: Break, lives: dict[str, float]) -> None:
        super().__init__(field_, Case(one.backend, f"{one.fault}-{one.side}", 0, "fill", "in"))
        self.one, self.lives = one, lives
        self.side = self.source if one.side == "source" else self.target
        self.base, self.on_word = 0, False

    def run(self) -> Result:
        """Do it, and keep what came of it."""
        result = super().run()
        self.one.code, self.one.outcome, self.one.ran = result.code, result.outcome, result.ran
        self.one.seconds, self.one.problems = round(result.seconds, 1), result.problems
        return result

    def _start(self, works: Stand) -> Handle:
        return works.container(*WORDS) if self.one.backend == "runc" else works.raw(*WORDS)

    def _move(self, handle: Handle) -> Done:
        self.base = memory_base(self.source, self._pid(self.source, handle), MIB)
        self.field.lab.tbf(self.source.name, SLOW_BIT_S)
        self.undo.append(lambda: self.field.lab.tbf(self.source.name, None))
        words = ("move", "--mode", "post-copy", "--json", "--", word_of(self.source, handle), f"{self.target.name}:")
        process = self.field.command.start(*words, env=self.field.env)
        if self.one.fault == "none":
            self.lives[self.one.backend] = lived(self._daemons, process)
            hunter = threading.Thread(target=lambda: None)
        else:
            self.one.delay_s = round(self.one.delay_s * self.lives.get(self.one.backend, LIFE_S), 3)
            hunter = threading.Thread(target=self._strike_one, args=(process, handle), daemon=True)
        hunter.start()
        try:
            done = self.field.command.finish(process)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        hunter.join(STRUCK_S)
        self.result.code, self.result.outcome = done.code, str(done.report.get("outcome", ""))
        allowed = CODES.get(self.one.fault, frozenset({0})) | (frozenset() if self.one.hit else frozenset({0}))
        if done.code not in allowed:
            self.result.problems.append(f"it ended with {done.code}, not one of {sorted(allowed)}: {done}")
        if done.code == 50:
            self._check_held(handle)
        return done

    def _daemons(self) -> list[Found]:
        return [] if self.restarted else [one for one in strike.on_node(self.target) if "lazy-pages" in one.words]

    def _strike_one(self, process: Any, handle: Handle) -> None:
        end_s = time.monotonic() + APPEAR_S
        while not self._daemons() and process.poll() is None and time.monotonic() < end_s:
            time.sleep(0.002)
        time.sleep(self.one.delay_s)
        try:
            if process.poll() is None:
                self.one.hit = self._do(process.pid, handle)
        except Exception as error:  # nobody else would hear of it in this thread
            self.result.problems.append(f"the fault could not be made: {type(error).__name__}: {error}")

    def _do(self, controller: int, handle: Handle) -> int:
        """The fault itself; returns how much was struck by it."""
        victims: Mapping[str, Callable[[], list[Found]]] = {
            "daemon": self._daemons,
            "server": lambda: strike.tools(self.source, "criu"),
            "helper-source": lambda: strike.helpers(self.source),
            "helper-target": lambda: strike.helpers(self.target),
            "controller": lambda: [one for one in [strike.look(controller)] if one],
        }
        fault = self.one.fault
        if fault in victims:
            return strike.kill(victims[fault]())
        if fault == "target":
            self.restarted = True
            place = Path(tempfile.mkdtemp(prefix="reboot-", dir=self.field.command.state))
            self.undo.append(reboot.crash(self.field.lab, self.target, place))
        elif fault == "strangers":
            found = strangers.knock(self.field.nodes, self._pid(self.source, handle), self.base)
            self.one.told = f"{found.refused} refused, {found.taken} taken, at most {found.most_bytes} bytes told"
            self.result.problems += found.problems
        else:
            self.field.lab.link_down(self.side.name)
            if fault == "link-gone":
                self.undo.append(lambda: self.field.lab.link_up(self.side.name))
            else:
                time.sleep(OUTAGE_S)
                self.field.lab.link_up(self.side.name)
        return 1

    # Its end

    def _settle(self, done: Done) -> None:
        """Mend what is broken, then bring the run to its end: forward first or back at once, in turns."""
        self._put_back()
        run_id = str(done.report.get("id") or (self.field.newest() if done.code == -9 else ""))
        if not run_id or (done.code not in HELD and not self.restarted):
            return
        self.field.command.ids.append(run_id)
        for word in ("--forward", "--rollback") if self.one.number // 2 % 2 == 0 else ("--rollback",):
            again = self.field.command.run("recover", run_id, word, "--json")
            self.on_word |= word == "--rollback"
            self.one.resolved.append(f"{word[2:]} {again.code}")
            self.result.outcome = str((again.report.get("runs") or [again.report])[0].get("outcome", ""))
            if again.code == 0:
                return
        self.result.problems.append(f"recover did not end it: {self.one.resolved}: {again}")

    def _on_word(self) -> bool:
        return self.on_word

    def _check_held(self, handle: Handle) -> None:
        """Nobody runs: the copy is frozen with right pages only, and the source is frozen with all of them.

        A target that is cut off learns of it by its own time-out; until then the copy runs on what it has.
        """
        cut_off = self.one.fault.startswith("link") and self.side is self.target
        for node in (self.source, self.target) if not self.restarted else (self.source,):
            pid, end_s = self._pid(node, handle), time.monotonic() + (CUT_OFF_S if cut_off else 0)
            while (state := state_of(node, pid)) != "frozen" and time.monotonic() < end_s:
                time.sleep(0.5)
            there = memory_there(node, pid, self.base, MIB)
            whole = there["present"] == there["pages"] or node is self.target
            if state != "frozen" or there["wrong"] or not whole:
                counts = f"{there['present']} of {there['pages']} pages, wrong {there['wrong']}"
                self.result.problems.append(f"held, but {node.name}: {state or 'gone'}, {counts}")

    def _pid(self, node: Node, handle: Handle) -> int:
        return driver.container_pid(node, handle.container) if handle.container else handle.pid

    def _leftovers(self, watch: Watch) -> None:
        if "helper" in self.one.fault or self.one.fault == "controller":
            time.sleep(DEAD_S)
            self.field.command.run("ls", "--json")  # what killed helpers leave goes with the next contact
        self.patience_s = UNHEARD_S if self.one.fault.startswith("link") else self.patience_s
        super()._leftovers(watch)


def made(field_: Field, one: Break, lives: dict[str, float]) -> Break:
    """One fault, made and judged."""
    Breach(field_, one, lives).run()
    return one


def told(one: Break) -> str:
    """One run in a few words."""
    where = f"{one.fault} ({one.backend}, {one.side}) {one.number} after {one.delay_s:.3f} s"
    ends = ", ".join([f"exit {one.code}", *one.resolved, one.outcome, *([one.told] if one.told else [])])
    text = f"{where}: {'hit' if one.hit else 'missed'}, {ends}, ran {one.ran}, {one.seconds} s"
    return text + "".join(f"\n    PROBLEM: {problem}" for problem in one.problems)


def table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The figures for docs/reliability.md: a row for each fault."""
    lines = [
        "| fault | runs | missed | exit codes | moved | back on the source | by forward | by rollback | violations |"
    ]
    lines.append("|---" * 9 + "|")
    for fault in CODES:
        some = [run for run in runs if run["fault"] == fault]
        hit = [run for run in some if run["hit"] or run["problems"]]
        codes = ", ".join(f"{code}: {n}" for code, n in sorted(Counter(run["code"] for run in hit).items()))
        moved = sum(run["outcome"] == "moved" for run in hit)
        ended = [sum(f"{word} 0" in run["resolved"] for run in hit) for word in ("forward", "rollback")]
        broken = sum(bool(run["problems"]) for run in hit)
        row = (fault, len(hit), len(some) - len(hit), codes, moved, len(hit) - moved, *ended, broken)
        lines.append(f"| {' | '.join(map(str, row))} |")
    return [*lines, f"{len(runs)} runs, {sum(run['seconds'] for run in runs) / 60:.0f} minutes"]


def arguments() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=int(os.environ.get("REBERTH_FAULT_SEED", "1")))
    parser.add_argument("--count", type=int, default=20, help="runs that were hit, for each fault")
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("REBERTH_SOAK_HOURS", "6")) * 60)
    parser.add_argument("--fault", action="append", choices=CODES, default=[])
    parser.add_argument("--log", type=Path, default=Path("postcopy.jsonl"))
    parser.add_argument("--tally", action="store_true", help="only show the table of the log")
    return parser.parse_args()


def soak(field_: Field, words: argparse.Namespace, left: Callable[[], bool]) -> bool:
    """All that is missing, a fault after the other and around again; false when one is never there to be struck."""
    lives: dict[str, float] = {}
    open_faults = list(words.fault or CODES)
    while open_faults and left():
        for fault in list(open_faults):
            ours = [run for run in read(words.log) if (run["fault"], run["seed"]) == (fault, words.seed)]
            if sum(bool(run["hit"]) for run in ours) >= words.count:
                open_faults.remove(fault)
                continue
            if len(ours) >= GIVE_UP and not any(run["hit"] for run in ours[-GIVE_UP:]):
                say(f"{fault} finds nothing to strike: {GIVE_UP} misses in a row")
                return False
            one = chosen(fault, max((run["number"] for run in ours), default=-1) + 1, words.seed)
            if one.backend not in lives:
                say(told(made(field_, Break(0, words.seed, one.backend, "target", 0.0, fault="none"), lives)))
            made(field_, one, lives)
            with words.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(one.__dict__) + "\n")
            say(told(one))
            if not left():
                break
    return True


def main() -> int:
    """As many runs as are missing; exit status 1 when one of them broke a promise."""
    words, there = arguments(), True
    end_s = time.monotonic() + words.minutes * 60
    if not words.tally:
        lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "soak", say=lambda _: None)
        lab.down()
        lab.up(2)
        say(f"seed {words.seed}")
        with tempfile.TemporaryDirectory(prefix="reberth-soak-") as place:
            field_ = Field(lab, Command(lab.config_path, Path(place)), random.Random(words.seed))
            there = soak(field_, words, lambda: time.monotonic() < end_s)
        lab.down()
    runs = read(words.log)
    say("\n".join(table(runs)))
    return 1 if any(run["problems"] for run in runs) or not there else 0


if __name__ == "__main__":
    sys.exit(main())
