"""`make soak`: SIGKILL at a random moment of a move, so many times for each victim; each kill is a line of JSON.

Usage: python tests/live/faults/kills.py [--seed N] [--count N] [--minutes M] [--victim NAME]... [--log FILE] [--tally]

The moment is the seed's: uniform over the time for which the victim lived in a move without a fault. A kill that finds
its victim gone is made again with the next number. What the log has already is not done again, so a run of hours can
be made in parts. The workload stays for ten kills, wherever it is; then nothing of it may be left on either node.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from livekit.command import PLAIN, Command, Done
from livekit.stand import Stand, gone, healthy, word_of
from workloads.driver import Handle

from faults import strike
from faults.cases import SIDES, Case
from faults.run import Field, Trial
from faults.strike import Found
from faults.witness import Witness, turns
from reberth_lab.lab import Lab

VICTIMS = ("controller", "helper", "ssh", "sshd", "criu-source", "criu-target", "lazy-target", "runc")
BACKENDS = ("criu", "runc")
BATCH = 10
SMALL, LARGE = ("pulse", "--mib", "8"), ("pulse", "--mib", "72")  # pages come lazily from 64 MiB on
WAIT_S = 20.0
GIVE_UP = 20
DEAD_S = 5.0  # a helper takes away what dead ones left when it is so old
AT_WORK = {"dump", "restore", "checkpoint", "swrk"}
# What the protocol may say of a tool that died; 10 and 13: before anything was begun.
CODES = {0, 10, 13, 20, 40, 41, 50}
SLOW = "\n[defaults]\nmemory_ahead = false\n"  # with memory ahead the images' last part is small, and read at once


@dataclass
class Struck:
    """One fault at a random moment and what came of it; `problems` is empty when the protocol kept its word."""

    number: int
    seed: int
    backend: str
    side: str
    delay_s: float
    hit: int = 0
    code: int = 0
    outcome: str = ""
    ran: list[int] = field(default_factory=list)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass
class Kill(Struck):
    """One kill of a victim; `recovered` are the exit codes of `recover`."""

    victim: str = ""
    recovered: list[int] = field(default_factory=list)


def chosen(victim: str, number: int, seed: int) -> Kill:
    """Everything that is left to chance, from the seed alone; `delay_s` is a share of the victim's life yet."""
    chance = random.Random(f"{seed}/{victim}/{number}")
    backend = "runc" if victim == "runc" else BACKENDS[number // BATCH % 2]
    _, _, side = victim.partition("-")
    return Kill(number, seed, backend, side or chance.choice(SIDES), chance.random(), victim=victim)


class Shot(Trial):
    """A move in which one process is killed; the workload is there before and stays after."""

    def __init__(self, field_: Field, kill: Kill, turned: bool, lives: dict[str, float]) -> None:
        super().__init__(field_, Case(kill.backend, f"{kill.victim.partition('-')[0]}-{kill.side}", 0, "any", "in"))
        self.kill = kill
        if turned:
            self.source, self.target = self.target, self.source
        self.side = self.source if kill.side == "source" else self.target
        self.lives = lives

    def fire(self, handle: Handle) -> bool:
        """Do it and judge it; returns whether the workload is on the target now."""
        begun_s, begun_ns = time.monotonic(), time.time_ns()
        witness = Witness([self.source, self.target], handle.directory)
        try:
            done = self._move(handle)
            self._settle(done)
            self._end(handle, [one for one in witness.stop() if one[0] >= begun_ns], done)
        except (AssertionError, subprocess.SubprocessError, OSError) as error:
            self.result.problems.append(f"{type(error).__name__}: {error}")
            witness.stop()
        result = self.result
        self.kill.code, self.kill.outcome, self.kill.recovered = result.code, result.outcome, result.recovered
        self.kill.problems, self.kill.seconds = result.problems, round(time.monotonic() - begun_s, 1)
        return result.outcome == "moved"

    def _move(self, handle: Handle) -> Done:
        env = {**self.field.env, **(self.field.piped() if self.kill.number % 2 else {})}
        if self.kill.victim == "lazy-target":
            env = self._lazy()
        runs = self._runs()
        words = ("move", *PLAIN, "--json", "--", word_of(self.source, handle), f"{self.target.name}:")
        process = self.field.command.start(*words, env=env)
        find = self._finder(process.pid)
        life_s = self.lives.get(self._life())
        if life_s is None:  # the first move of its kind tells how long such a process lives
            self.lives[self._life()] = lived(find, process)
            hunter = threading.Thread(target=lambda: None)
        else:
            self.kill.delay_s = round(self.kill.delay_s * life_s, 4)
            hunter = threading.Thread(target=self._hunt_one, args=(find, process), daemon=True)
        hunter.start()
        done = self.field.command.finish(process)
        hunter.join(WAIT_S)
        self.result.code, self.result.outcome = done.code, str(done.report.get("outcome", ""))
        allowed = {0, -9} if self.kill.victim == "controller" else CODES
        if done.code not in allowed:
            self.result.problems.append(f"it ended with {done.code}, not one of {sorted(allowed)}: {done}")
        if done.code == -9 and self._runs() == runs:
            self.result.outcome = "not begun"  # nothing was written: there is nothing to recover
        return done

    def _settle(self, done: Done) -> None:
        if self.result.outcome != "not begun":
            super()._settle(done)

    def _end(self, handle: Handle, line: Sequence[tuple[int, int]], done: Done) -> None:
        moved = self.result.outcome == "moved"
        here, there = (self.target, self.source) if moved else (self.source, self.target)
        found = self._patient_health(here, handle)
        self.kill.ran = turns(line)
        if not found["ok"]:
            self.result.problems.append(f"the workload on {here.name} is not well: {found['problems']}: {done}")
        if not gone(there, handle):
            self.result.problems.append(f"something of it runs on {there.name} as well")
        back = [[0, 1, 0]] if self._on_word() else []
        allowed = [[0, 1], [1]] if moved else [[0], *back]
        if self.kill.ran not in allowed:
            self.result.problems.append(f"who ran, in order: {self.kill.ran}, where {allowed} is allowed")

    def _life(self) -> str:
        return f"{self.kill.victim} {self.kill.backend} {self.kill.side}"

    def _runs(self) -> set[str]:
        place = self.field.command.state / "reberth" / "runs"
        return {path.name for path in place.iterdir()} if place.is_dir() else set()

    def _lazy(self) -> dict[str, str]:
        path = self.field.command.state / "lazy.toml"
        if not path.exists():
            path.write_text(self.field.command.config.read_text(encoding="utf-8") + SLOW, encoding="utf-8")
        return {"REBERTH_CONFIG": str(path)}

    def _hunt_one(self, find: Callable[[], list[Found]], process: subprocess.Popen[str]) -> None:
        end_s = time.monotonic() + WAIT_S
        while not find() and process.poll() is None and time.monotonic() < end_s:
            time.sleep(0.001)
        time.sleep(self.kill.delay_s)
        if process.poll() is None:
            self.kill.hit = strike.kill(find())

    def _finder(self, controller: int) -> Callable[[], list[Found]]:
        side = self.side
        return {
            "controller": lambda: [one for one in [strike.look(controller)] if one],
            "helper": lambda: strike.helpers(side),
            "ssh": lambda: strike.connections(controller, side.address, bulk=False),
            "sshd": lambda: [one for one in strike.on_node(side) if one.comm == "sshd-session"],
            "criu": lambda: at_work(strike.tools(side, "criu")),
            "lazy": lambda: [one for one in strike.on_node(side) if "lazy-pages" in one.words],
            "runc": lambda: at_work(strike.tools(side, "runc")),
        }[self.kill.victim.partition("-")[0]]


def at_work(found: Sequence[Found]) -> list[Found]:
    """Those that dump or restore; the others only answer a question of the preflight."""
    return [one for one in found if AT_WORK.intersection(one.words) and "cpuinfo" not in one.words]


def lived(find: Callable[[], list[Found]], process: subprocess.Popen[str]) -> float:
    """The seconds from the first to the last sight of a victim in a move without a fault."""
    first = last = 0.0
    while process.poll() is None:
        if find():
            last = time.monotonic()
            first = first or last
        time.sleep(0.002)
    return last - first


class Range:
    """Where the kills are made: a lab, and the workload that they share."""

    def __init__(self, field_: Field, log: Path) -> None:
        self.field, self.log = field_, log
        self.lives: dict[str, float] = {}

    def batch(self, victim: str, numbers: Sequence[int], seed: int, left: Callable[[], bool]) -> None:
        """Kills with one workload; afterwards both nodes must be as they were."""
        works = Stand(self.field.nodes)
        watch = self.field.watch()
        kills: list[Kill] = []
        handle, turned = None, False
        try:
            for number in numbers:
                if not left():
                    break
                kill = chosen(victim, number, seed)
                handle = handle or self._start(works, kill)
                for _ in range(2):  # the second time, when the first was for the clock
                    measured = f"{victim} {kill.backend} {kill.side}" in self.lives
                    turned ^= Shot(self.field, kill, turned, self.lives).fire(handle)
                    if measured or kill.problems:
                        break
                    kill = chosen(victim, number, seed)
                kills.append(kill)
                if kill.problems:
                    break
        finally:
            works.stop_all()
        time.sleep(DEAD_S)
        self.field.command.run("ls", "--json")  # what killed helpers leave goes with the next contact
        found = watch.leftovers(patience_s=30)
        if kills and found:
            kills[-1].problems += [f"left after {len(kills)} kills: {line}" for line in found]
        with self.log.open("a", encoding="utf-8") as log:
            log.writelines(json.dumps(kill.__dict__) + "\n" for kill in kills)
        for kill in kills:
            say(told(kill))

    def _start(self, works: Stand, kill: Kill) -> Handle:
        words = LARGE if kill.victim == "lazy-target" else SMALL
        handle = works.container(*words) if kill.backend == "runc" else works.raw(*words)
        healthy(self.field.nodes[0], handle)
        return handle


def read(log: Path) -> list[dict[str, Any]]:
    """The kills of a log."""
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []


def told(kill: Kill) -> str:
    """One kill in a few words."""
    ends = " then ".join(map(str, [kill.code, *kill.recovered]))
    where = f"{kill.victim} ({kill.backend}, {kill.side}) {kill.number} after {kill.delay_s:.3f} s"
    text = f"{where}: {'hit' if kill.hit else 'missed'}, exit {ends}, {kill.outcome}, {kill.seconds} s"
    return text + "".join(f"\n    PROBLEM: {problem}" for problem in kill.problems)


def table(kills: Sequence[dict[str, Any]]) -> list[str]:
    """The figures for docs/reliability.md: a row for each victim."""
    lines = ["| victim | kills | missed | exit codes | moved | back on the source | violations |"]
    lines.append("|---|---|---|---|---|---|---|")
    for victim in VICTIMS:
        some = [kill for kill in kills if kill["victim"] == victim]
        hit = [kill for kill in some if kill["hit"] or kill["problems"]]
        codes = ", ".join(f"{code}: {n}" for code, n in sorted(Counter(kill["code"] for kill in hit).items()))
        moved = sum(kill["outcome"] == "moved" for kill in hit)
        broken = sum(bool(kill["problems"]) for kill in hit)
        row = (victim, len(hit), len(some) - len(hit), codes, moved, len(hit) - moved, broken)
        lines.append(f"| {' | '.join(map(str, row))} |")
    total = sum(kill["seconds"] for kill in kills)
    return [*lines, f"{len(kills)} moves, {total / 60:.0f} minutes"]


def say(text: str) -> None:
    """Progress, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def arguments() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=int(os.environ.get("REBERTH_FAULT_SEED", "1")))
    parser.add_argument("--count", type=int, default=200, help="kills that hit, for each victim")
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("REBERTH_SOAK_HOURS", "6")) * 60)
    parser.add_argument("--victim", action="append", choices=VICTIMS, default=[])
    parser.add_argument("--log", type=Path, default=Path("kills.jsonl"))
    parser.add_argument("--tally", action="store_true", help="only show the table of the log")
    return parser.parse_args()


def main() -> int:
    """As many kills as are missing; exit status 1 when one of them broke a promise."""
    words = arguments()
    end_s = time.monotonic() + words.minutes * 60
    there: list[bool] = []
    if not words.tally:
        lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "soak", say=lambda _: None)
        lab.down()
        lab.up(2)
        say(f"seed {words.seed}")
        with tempfile.TemporaryDirectory(prefix="reberth-soak-") as place:
            ground = Range(Field(lab, Command(lab.config_path, Path(place)), random.Random(words.seed)), words.log)
            there = [shoot(ground, v, words, lambda: time.monotonic() < end_s) for v in words.victim or VICTIMS]
        lab.down()
    kills = read(words.log)
    say("\n".join(table(kills)))
    return 1 if any(kill["problems"] for kill in kills) or not all(there) else 0


def shoot(ground: Range, victim: str, words: argparse.Namespace, left: Callable[[], bool]) -> bool:
    """All that is missing of one victim, until time is up; false when it is never there."""
    while left():
        ours = [kill for kill in read(words.log) if kill["victim"] == victim and kill["seed"] == words.seed]
        missing = words.count - sum(bool(kill["hit"]) for kill in ours)
        if missing <= 0:
            return True
        if len(ours) >= GIVE_UP and not any(kill["hit"] for kill in ours[-GIVE_UP:]):
            say(f"{victim} is never there when it is struck: {GIVE_UP} misses in a row")
            return False
        first = max((kill["number"] for kill in ours), default=-1) + 1
        most = min(missing, BATCH - first % BATCH)
        ground.batch(victim, range(first, first + most), words.seed, left)
    return True


if __name__ == "__main__":
    sys.exit(main())
