"""Two faults at once, a part of `make soak`: python tests/live/faults/pairs.py [--only WORD]; 1 for a broken one."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from livekit.command import PLAIN, Command, Done
from livekit.stand import gone, word_of
from workloads.driver import Handle

from faults import reboot, strike
from faults.cases import Case, points
from faults.pairs_table import PAIRS, Pair
from faults.run import Field, Result, Trial, good_journal
from faults.witness import Witness, turns
from reberth_lab.lab import Lab

PAUSE_S = 14.0  # longer than a node waits for a controller that is silent
SLEEP_S = 30.0
OPEN = (40, 41, 42, 50)
FULL = "mount -t tmpfs -o size=1m tmpfs /mnt && cp -a /var/lib/reberth/. /mnt/ && mount --move /mnt /var/lib/reberth"
FULL += " && dd if=/dev/zero of=/var/lib/reberth/ballast bs=4k 2>/dev/null; :"
THAW = (
    "for d in /sys/fs/cgroup/reberth-2* /sys/fs/cgroup/*/reberth-2*; do [ -d $d ] && echo 0 >$d/cgroup.freeze; done; :"
)


class Two(Trial):
    """One schedule under way; each word of the table is a method."""

    def __init__(self, field_: Field, pair: Pair, at: int) -> None:
        super().__init__(field_, Case("criu", pair.name, at, pair.at))
        self.pair = pair
        self.process: subprocess.Popen[str]
        self.done = Done(0, {}, "")
        self.handle: Handle
        self.asleep: list[strike.Found] = []
        self.waker: threading.Timer | None = None
        self.starts: dict[str, Any] = {}

    def _move(self, handle: Handle) -> Done:
        self.handle = handle
        env = {**self.field.env, **self.field.piped(), "REBERTH_CRASH_AT": f"{self.case.at}:stop"}
        words = ("move", *PLAIN, "--json", "--", word_of(self.source, handle), f"{self.target.name}:")
        self.process = self.field.command.start(*words, env=env)
        try:
            self._wait_for_stop(self.process)
            self.field.command.ids.append(self.field.newest())
            for word in self.pair.does:
                getattr(self, word)()
        finally:
            self.wake()
            if self.process.poll() is None:
                self.process.kill()
                self.process.communicate()
        return self.done

    def _look_at_the_cut_off(self, done: Done) -> None:
        """The schedules look by themselves."""

    def _settle(self, done: Done) -> None:
        self._put_back()
        found, last = self.result, self.result.recovered
        if self.pair.ends and found.code not in self.pair.ends:
            found.problems.append(f"the move ended with {found.code}, not one of {sorted(self.pair.ends)}: {done}")
        if self.pair.last and last and last[-1] not in self.pair.last:
            found.problems.append(f"recover ended with {last}, the last not one of {sorted(self.pair.last)}: {done}")
        if found.outcome not in self.pair.outcome:
            found.problems.append(f"the outcome is {found.outcome!r}, not one of {sorted(self.pair.outcome)}: {done}")

    def _judge(self, handle: Handle, witness: Witness) -> None:
        """Where it must run it is well, on the other node nothing of it is, and who ran is what the table allows."""
        if self.result.outcome in ("moved", "rolled-back"):
            here, there = (self.target, self.source) if self.result.outcome == "moved" else (self.source, self.target)
            found = self._patient_health(here, handle)
            if not found["ok"]:
                self.result.problems.append(f"the workload on {here.name} is not well: {found['problems']}")
            if not gone(there, handle):
                self.result.problems.append(f"something of it runs on {there.name} as well")
        self.result.ran = turns(witness.stop())
        if tuple(self.result.ran) not in self.pair.ran:
            self.result.problems.append(f"who ran, in order: {self.result.ran}, not one of {sorted(self.pair.ran)}")

    # The controller

    def go_on(self) -> None:
        """Let the controller go on, and wait for its end."""
        self.process.send_signal(signal.SIGCONT)
        self._take(self.field.command.finish(self.process))
        self.result.code = self.done.code

    def kill_controller(self) -> None:
        """Kill it where it stands."""
        self.process.kill()
        self.process.communicate()
        self.result.code = -9

    def second_controller(self) -> None:
        """Ask for the same move from another machine: it is refused, since a run holds the workload."""
        other = Command(self.field.command.config, Path(tempfile.mkdtemp(dir=self.field.command.state)))
        done = other.move(word_of(self.source, self.handle), f"{self.target.name}:", env=self.field.env)
        if done.code != 11 or "busy" not in done.error:
            self.result.problems.append(f"the second controller was not refused: {done}")

    def _take(self, done: Done) -> None:
        runs = done.report.get("runs") or [done.report]
        self.done = Done(done.code, runs[0], done.stderr, done.stdout)
        self.result.outcome = str(self.done.report.get("outcome", self.result.outcome))

    def _recover(self, *words: str) -> None:
        self._take(self.field.command.run("recover", self.field.newest(), *words, "--json"))
        self.result.recovered.append(self.done.code)

    def recover(self) -> None:
        """As an operator does first."""
        self._recover()

    def recover_back(self) -> None:
        """With the operator's word for the source."""
        self._recover("--rollback")

    def recover_target_is_gone(self) -> None:
        """With the operator's word that the target never comes back."""
        self._recover("--rollback", "--target-is-gone")

    def recover_if_open(self) -> None:
        """Only where the move has left the run open."""
        if self.done.code in OPEN:
            self._recover()

    def recover_back_if_open(self) -> None:
        """The same, for the source."""
        if self.done.code in OPEN:
            self._recover("--rollback")

    def recover_forward_if_open(self) -> None:
        """The same, with the operator's word that the source is dead."""
        if self.done.code in OPEN:
            self._recover("--forward", "--source-is-dead")

    def both_words(self) -> None:
        """Two operators at once, who want opposite things: both hear of the same end."""
        asked = [
            self.field.command.start("recover", self.field.newest(), w, "--json") for w in ("--forward", "--rollback")
        ]
        heard = []
        for one in asked:
            done = self.field.command.finish(one)
            heard.append((done.report.get("runs") or [done.report])[0].get("outcome"))
        if len({*heard} - {None, "held"}) > 1:
            self.result.problems.append(f"two operators heard of two ends: {heard}")

    # Nodes and what runs on them

    def kill_helpers(self) -> None:
        """Both at once."""
        if not strike.kill([*strike.helpers(self.source), *strike.helpers(self.target)]):
            self.result.problems.append("there were no helpers")

    def kill_source_helper(self) -> None:
        """The source's alone."""
        strike.kill(strike.helpers(self.source))

    def kill_workload(self) -> None:
        """As an operator would who thinks that it hangs."""
        self.source.run(["kill", "-KILL", str(self.handle.pid)])

    def thaw_source(self) -> None:
        """As an operator would who knows of cgroups."""
        self.source.run(["sh", "-c", THAW])
        time.sleep(1.0)

    def _stop(self, found: list[strike.Found]) -> None:
        self.asleep = found
        for one in found:
            os.kill(one.pid, signal.SIGSTOP)
        self.waker = threading.Timer(SLEEP_S, self._rouse)
        self.waker.start()

    def _rouse(self) -> None:
        for one in self.asleep:
            if strike.look(one.pid):
                os.kill(one.pid, signal.SIGCONT)

    def stop_target_helper(self) -> None:
        """For half a minute."""
        self._stop(strike.helpers(self.target))

    def stop_target_criu(self) -> None:
        """For half a minute."""
        self._stop(strike.tools(self.target, "criu"))

    def wake(self) -> None:
        """Wait until what was stopped goes on again."""
        if self.waker is not None:
            self.waker.join()
            self.waker = None

    def pause(self) -> None:
        """Longer than a node waits for a silent controller."""
        time.sleep(PAUSE_S)

    def cut_target(self) -> None:
        """Unplug the target."""
        block = strike.cut(self.field.lab, self.target, "down")
        block.__enter__()
        self.undo.append(lambda: block.__exit__(None, None, None))

    def mend(self) -> None:
        """Plug it in again."""
        self._put_back()

    def power_source(self) -> None:
        """The source loses its power."""
        self._power(self.source)

    def power_target(self) -> None:
        """The target loses its power, and its disk is empty when it comes back."""
        self.field.lab.crash(self.target.name)
        self.restarted = True
        self.starts[self.target.name] = lambda: self.field.lab.up(2)
        self.undo.append(lambda: self.field.lab.up(2))

    def _power(self, node: Any) -> None:
        self.restarted = True
        self.starts[node.name] = reboot.crash(
            self.field.lab, node, Path(tempfile.mkdtemp(dir=self.field.command.state))
        )
        self.undo.append(lambda: reboot.forget(node))

    def start_source(self) -> None:
        """It comes back, with what was on its disk."""
        self.starts[self.source.name]()

    def start_target(self) -> None:
        """It comes back."""
        self.starts[self.target.name]()

    def _fill(self, node: Any) -> None:
        node.run(["sh", "-c", FULL])
        self.undo.append(lambda: node.run(["umount", "/var/lib/reberth"]) and None)

    def fill_source(self) -> None:
        """No block is free where the source keeps its runs."""
        self._fill(self.source)

    def fill_target(self) -> None:
        """The same on the target."""
        self._fill(self.target)

    def wipe_source(self) -> None:
        """The source forgets all runs."""
        self.source.run(["sh", "-c", "rm -rf /var/lib/reberth/*"])

    def wipe_target(self) -> None:
        """The target forgets all runs."""
        self.target.run(["sh", "-c", "rm -rf /var/lib/reberth/*"])

    def _leftovers(self, watch: Any) -> None:
        """What is open stays; what was restarted or wiped is another node than before."""
        if self.result.outcome in ("moved", "rolled-back", "ended") and not self.restarted:
            self.result.problems += watch.leftovers(patience_s=self.patience_s)


def run_pair(field_: Field, pair: Pair, journal: list[dict[str, Any]]) -> Result:
    """Run one schedule and judge it."""
    at = next(point.at for point in points(journal) if point.begins and point.name == pair.at)
    return Two(field_, pair, at).run()


def main() -> int:
    """Run them all, each in a fresh lab: what one leaves would mislead the next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="those with this word in their name")
    parser.add_argument("--seed", type=int, default=6)
    options = parser.parse_args()
    broken = 0
    for pair in (one for one in PAIRS if options.only in one.name):
        lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "soak", say=lambda _: None)
        lab.down()
        lab.up(2)
        try:
            with tempfile.TemporaryDirectory() as state:
                field_ = Field(lab, Command(lab.config_path, Path(state)), random.Random(options.seed))
                found = run_pair(field_, pair, good_journal(field_, "criu"))
        finally:
            lab.down()
        broken += bool(found.problems)
        print(
            f"{pair.name}: exit {found.code}, recover {found.recovered}, {found.outcome}, ran {found.ran}", flush=True
        )
        print("".join(f"  {problem}\n" for problem in found.problems), end="", flush=True)
    print(f"{len(PAIRS)} schedules, {broken} with a broken promise")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
