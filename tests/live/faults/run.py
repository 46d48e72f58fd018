"""One case from beginning to end: a workload, a move, a strike, the end of it, and the judge."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livekit import stand
from livekit.command import PLAIN, Command, Done, journal_of
from livekit.snapshot import Watch, take
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver
from workloads.driver import Handle

from faults import alone, reboot, strike
from faults.cases import Case, ends
from faults.witness import Witness, turns
from reberth_lab.lab import Lab
from reberth_lab.node import Node

SSH_BIN = Path(__file__).parent / "bin"
FLIP_AT_BYTES = 2_000_000
MOST_DELAY_S = 0.12
REACH_S = 60.0
HUNTED_S = 25.0
TRIES = 5
# What is compared on a node that was restarted: the rest is new there by itself.
AFTER_RESTART = ("open runs", "images on disk", "shared memory", "nft")
TAKE_PID = "echo $(($1 - 1)) > /proc/sys/kernel/ns_last_pid; setsid sleep 600 </dev/null >/dev/null 2>&1 & :"


class NotReachedError(AssertionError):
    """The run never came to the point of the case: the case proves nothing."""


@dataclass
class Result:
    """How a case ended; `problems` is empty when the protocol kept its word."""

    case: Case
    code: int = 0
    recovered: list[int] = field(default_factory=list)
    ran: list[int] = field(default_factory=list)
    outcome: str = ""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass
class Field:
    """Where cases are run: the lab, the command, and a source of chance."""

    lab: Lab
    command: Command
    chance: random.Random
    env: Mapping[str, str] = field(default_factory=dict)
    alone_s: float = alone.LIMIT_S  # how long a node behind a cut link may take to act by itself

    @property
    def nodes(self) -> tuple[Node, Node]:
        """Source and target."""
        return self.lab.node("node1"), self.lab.node("node2")

    def watch(self) -> Watch:
        """The nodes and the outer machine as they are now."""
        stand.keep_pids_apart(self.nodes)
        return Watch(self.nodes, self.command.state, self.command.ids)

    def piped(self) -> dict[str, str]:
        """The environment in which data goes through this machine, not straight from node to node."""
        path = self.command.state / "piped.toml"
        if not path.exists():
            lines = self.command.config.read_text(encoding="utf-8").splitlines(keepends=True)
            path.write_text("".join(line for line in lines if not line.startswith("direct")), encoding="utf-8")
        return {"REBERTH_CONFIG": str(path)}

    def newest(self) -> str:
        """The run that was begun last."""
        place = self.command.state / "reberth" / "runs"
        return max((path.name for path in place.iterdir()), default="") if place.is_dir() else ""


def start(works: Stand, backend: str) -> Handle:
    """A workload of this backend."""
    words = ("pulse", "--mib", "8")
    return works.container(*words) if backend == "runc" else works.raw(*words)


def good_journal(field_: Field, backend: str) -> list[dict[str, Any]]:
    """The controller's journal of a run without a fault."""
    works = Stand(field_.nodes)
    watch = field_.watch()
    handle = start(works, backend)
    source, target = field_.nodes
    try:
        done = field_.command.move(word_of(source, handle), f"{target.name}:", env=field_.env)
        assert done.code == 0, str(done)
        healthy(target, handle)
        journal = journal_of(field_.command.state, done.report["id"])
    finally:
        works.stop_all()
    watch.check()
    return journal


class Trial:
    """One case under way."""

    def __init__(self, field_: Field, case: Case) -> None:
        self.field, self.case = field_, case
        self.source, self.target = field_.nodes
        self.side = self.source if case.fault.endswith("source") else self.target
        self.result = Result(case)
        self.undo: list[Callable[[], None]] = []
        self.restarted, self.patience_s = False, 30.0
        self.hunter: threading.Thread | None = None
        self.hits: list[int] = []
        self.cut_s = 0.0

    def run(self) -> Result:
        """Do it all; what goes wrong is a problem of the result, not an exception."""
        begun_s = time.monotonic()
        works = Stand(self.field.nodes)
        watch = self.field.watch()
        handle = self._start(works)
        witness = Witness(self.field.nodes, handle.directory)
        try:
            healthy(self.source, handle)
            done = self._move(handle)
            self._look_at_the_cut_off(done)
            self._settle(done)
            self._judge(handle, witness)
        except (AssertionError, subprocess.SubprocessError, OSError) as error:
            self.result.problems.append(f"{type(error).__name__}: {error}")
            witness.stop()
        finally:
            self._put_back()
            works.stop_all()
        self._leftovers(watch)
        self.result.seconds = time.monotonic() - begun_s
        return self.result

    # The move

    def _start(self, works: Stand) -> Handle:
        return start(works, self.case.backend)

    def _move(self, handle: Handle) -> Done:
        case, env = self.case, dict(self.field.env)
        if case.at % 2 or case.fault.partition("-")[0] in ("flip", "cut", "bulk"):
            env |= self.field.piped()
        if case.fault == "controller":
            env["REBERTH_CRASH_AT"] = f"{case.at}:before" if case.moment == "before" else str(case.at)
        elif case.fault in ("flip", "cut-off"):
            env["PATH"] = f"{SSH_BIN}{os.pathsep}{os.environ['PATH']}"
            env |= {"FAULT_HOST": self.target.address, "FAULT_KIND": case.fault, "FAULT_AT_BYTES": str(FLIP_AT_BYTES)}
        else:
            env["REBERTH_CRASH_AT"] = f"{case.at}:stop"
        words = ("move", *PLAIN, "--json", "--", word_of(self.source, handle), f"{self.target.name}:")
        process = self.field.command.start(*words, env=env)
        try:
            if env.get("REBERTH_CRASH_AT", "").endswith(":stop"):
                self._wait_for_stop(process)
                self._strike(process.pid, handle)
                process.send_signal(signal.SIGCONT)
            done = self.field.command.finish(process)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if self.hunter is not None:
            self.hunter.join(HUNTED_S)
        self.result.code = done.code
        allowed = ends(case) if self.hits != [0] else {0}  # a strike that came too late, and is made again
        if done.code not in allowed:
            struck = f" ({self.hits[0]} killed)" if self.hits else ""
            self.result.problems.append(f"it ended with {done.code}, not one of {sorted(allowed)}{struck}: {done}")
        self.result.outcome = str(done.report.get("outcome", ""))
        return done

    def _wait_for_stop(self, process: subprocess.Popen[str]) -> None:
        end_s = time.monotonic() + REACH_S
        while time.monotonic() < end_s and process.poll() is None:
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T":
                return
            time.sleep(0.002)
        raise NotReachedError(f"the controller never stopped at record {self.case.at}")

    def _strike(self, controller: int, handle: Handle) -> None:
        kind, _, _ = self.case.fault.rpartition("-")
        find: dict[str, Callable[[], list[strike.Found]]] = {
            "helper": lambda: strike.helpers(self.side),
            "ssh": lambda: strike.connections(controller, self.side.address, bulk=False),
            "bulk": lambda: strike.connections(controller, self.side.address, bulk=True),
            "criu": lambda: strike.tools(self.side, "criu"),
            "runc": lambda: strike.tools(self.side, "runc"),
        }
        if self.case.moment == "in":
            ready = find["criu"] if kind == "helper" else find[kind]
            self._hunt(ready, find[kind])
        elif kind in find:
            if not strike.kill(find[kind]()) and kind not in ("bulk",):
                raise NotReachedError(f"there is no {self.case.fault}")
        elif kind.startswith("link"):
            block = strike.cut(self.field.lab, self.side, kind.partition("-")[2])
            block.__enter__()
            self.cut_s = time.monotonic()
            self.undo.append(lambda: block.__exit__(None, None, None))
        else:
            getattr(self, f"_{self.case.fault.replace('-', '_')}")(handle)

    def _hunt(self, ready: Callable[[], list[strike.Found]], victims: Callable[[], list[strike.Found]]) -> None:
        delay_s = self.field.chance.uniform(0, MOST_DELAY_S)
        if self.case.point == "permit":  # the tool stands there already; what follows takes milliseconds
            delay_s = self.field.chance.uniform(0, 0.03)
        self.hunter, self.hits = strike.hunt(ready, victims, delay_s)

    def _reboot_target(self, handle: Handle) -> None:
        place = Path(tempfile.mkdtemp(prefix="reboot-", dir=self.field.command.state))
        self.restarted = True
        self.undo.append(reboot.crash(self.field.lab, self.target, place))

    def _disk_full(self, handle: Handle) -> None:
        # Memory went ahead of the freeze and is there already, so the place ends at what is used now.
        used = int(self.target.run(["df", "--output=used", "-B1", "/dev/shm"]).stdout.split()[-1])
        self.target.run(["mount", "-o", f"remount,size={max(used, 1 << 20)}", "/dev/shm"])
        self.undo.append(lambda: self.target.run(["mount", "-o", "remount,size=6291456k", "/dev/shm"]) and None)

    def _restore_fails(self, handle: Handle) -> None:
        place = f"{handle.bundle}/rootfs/state" if handle.container else handle.directory
        self.target.run(["mv", place, f"{place}.aside"])
        if not handle.container:
            self.undo.append(lambda: self.target.run(["mv", f"{place}.aside", place]) and None)

    def _pid_taken(self, handle: Handle) -> None:
        self.target.run(["sh", "-c", TAKE_PID, "sh", str(handle.pid)])
        self.undo.append(lambda: self.target.run(["kill", "-KILL", str(handle.pid)]) and None)

    def _flipped_page(self, handle: Handle) -> None:
        """For a twin: damage that nothing on the way can see, since the files were hashed before it."""
        place = next((self.target.root / "dev/shm").glob("reberth-*-images-*"))
        self.target.run(["python3", "-c", strike.FLIP, f"/dev/shm/{place.name}"])

    def _put_back(self) -> None:
        while self.undo:
            self.undo.pop()()

    # Its end

    def _look_at_the_cut_off(self, done: Done) -> None:
        """What the node behind a cut link does by itself is seen only before the link is mended."""
        run_id = str(done.report.get("id") or self.field.newest())
        if self.cut_s and run_id:
            role = "source" if self.side is self.source else "target"
            said = alone.problem(self.side, role, run_id, self.cut_s + self.field.alone_s)
            self.result.problems += [said] if said else []

    def _settle(self, done: Done) -> None:
        """What the user would do: mend what is broken, then `recover` until nothing is open."""
        self._put_back()
        run_id = str(done.report.get("id") or (self.field.newest() if done.code == -9 else ""))
        if not run_id or not (done.code in (-9, 1, 40, 41, 42, 50) or self.restarted or self._is_untold(run_id)):
            return
        if not (self.field.command.state / "reberth" / "runs" / run_id / "journal.jsonl").exists():
            return  # it died before its first record: there is nothing that anybody could know of
        self.field.command.ids.append(run_id)
        for words in ((), (), ("--rollback",)):
            if words and done.report.get("outcome") != "held":
                break
            done = self.field.command.run("recover", run_id, *words, "--json")
            self.result.recovered.append(done.code)
            runs = done.report.get("runs") or [done.report]
            done = Done(done.code, runs[0], done.stderr, done.stdout)
            self.result.outcome = str(done.report.get("outcome", self.result.outcome))
            if done.code == 0:
                return
            time.sleep(1.0)
        if self.result.recovered and self.result.recovered[-1] != 0:
            self.result.problems.append(f"recover ended with {self.result.recovered}: {done}")

    def _is_untold(self, run_id: str) -> bool:
        """Whether a node could not be told that the run is over: it may hold a frozen copy until `recover`."""
        journal = self.field.command.state / "reberth" / "runs" / run_id / "journal.jsonl"
        records = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
        ends = [record for record in records if record.get("event") == "end"]
        return bool(ends and ends[-1].get("untold"))

    def _judge(self, handle: Handle, witness: Witness) -> None:
        moved = self.result.outcome == "moved"
        here, there = (self.target, self.source) if moved else (self.source, self.target)
        lost = moved and self.restarted  # it ran there, and ended with its node, as every program does
        found = {"ok": True} if lost else self._patient_health(here, handle)
        self.result.ran = turns(witness.stop())
        if not found["ok"]:
            self.result.problems.append(f"the workload on {here.name} is not well: {found['problems']}")
        if not gone(there, handle):
            self.result.problems.append(f"something of it runs on {there.name} as well")
        allowed = [[0, 1], [1]] if moved else [[0], *([[0, 1, 0]] if self._on_word() else [])]
        if self.result.ran not in allowed:
            self.result.problems.append(f"who ran, in order: {self.result.ran}, where {allowed} is allowed")

    def _on_word(self) -> bool:
        """Whether the source was preferred to a copy that may have run: only `recover --rollback` may do that."""
        return len(self.result.recovered) > 2

    def _patient_health(self, node: Node, handle: Handle) -> dict[str, Any]:
        """A source that is left alone runs again by itself after ten seconds of silence."""
        end_s = time.monotonic() + 20
        while True:
            found = driver.verify(node, handle)
            if found["ok"] or time.monotonic() > end_s or "differs" in str(found["problems"]):
                return found
            time.sleep(0.5)

    def _leftovers(self, watch: Watch) -> None:
        names = [self.source.name] if self.restarted else []
        self.result.problems += watch.leftovers(*names, patience_s=self.patience_s)
        if self.restarted:
            reboot.forget(self.target)
            now = take(self.target)
            left = [f"{key}: {word}" for key in AFTER_RESTART for word in now[key]]
            self.result.problems += [f"{self.target.name}: left: {word}" for word in left]


def run_case(field_: Field, case: Case) -> Result:
    """Run one case and judge it; a strike at a random moment that found nothing there is made again at another one."""
    for _ in range(TRIES):
        trial = Trial(field_, case)
        result = trial.run()
        if trial.hits != [0] or result.problems:
            return result
    result.problems.append(f"there was no {case.fault} any more, {TRIES} times")
    return result


@contextlib.contextmanager
def changed_code(place: Path, changes: Sequence[tuple[str, str, str]]) -> Iterator[dict[str, str]]:
    """A copy of the core with planted faults (file, text, other text); returns the environment that uses it."""
    import shutil

    import reberth

    core = Path(str(reberth.__file__)).parent
    shutil.copytree(core, place / "reberth", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text, other in changes:
        path = place / "reberth" / name
        old = path.read_text(encoding="utf-8")
        assert text in old, f"{name} has no {text!r}: the planted fault does not fit the code any more"
        path.write_text(old.replace(text, other), encoding="utf-8")
    yield {"PYTHONPATH": os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])}


def as_json(result: Result) -> str:
    """One line for a log."""
    words = {**result.__dict__, "case": result.case.id, "seconds": round(result.seconds, 1)}
    return json.dumps(words)
