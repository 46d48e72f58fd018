"""A criu that a daemon starts (LXD, Incus), held by the same action script as one that we start ourselves.

The daemon gives its criu an action script of its own on the command line; ours is named in CRIU's default configuration
file, which every criu of the node reads. CRIU runs all scripts, the command line's first, and one that fails is enough
for a veto (tried with criu 4.2.1, liblxc 6.0.4, 2026-11-25). So on the source ours is asked when the daemon has made up
its mind, and has the last word; on the target it holds the copy in `post-restore`, and the daemon waits.

What is named there is one script for all runs, which finds the run's own one (`criu/planted.py`).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

from reberth.node.criu import planted
from reberth.node.criu.complete import lacking
from reberth.node.criu.stats import read_dump_stats
from reberth.node.criu.tool import Job
from reberth.node.errors import OpError
from reberth.node.system import procs
from reberth.node.system.durable import boottime_ns

IDLE_LOOKS, SLOW_LOOKS = 3, 100  # without a criu once it has begun its log, and before: half a minute, on slow machines
LEAF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
TURN_S = 120.0
PASSING = ("pre-dump", "pre-restore")  # answered at once


class Gate(Job):
    """The planted script of one end; its tool is whatever criu runs it for the container."""

    def __init__(
        self,
        role: str,
        run_dir: str,
        leaf: str,
        worker: Sequence[str] = (),
        fence: str = "",
        pauses: bool = False,
        root_pid: int = 0,
    ) -> None:
        for word in (leaf, *worker):
            if not LEAF.match(word):
                raise OpError("bad-argument", f"{word!r} is no name of a cgroup or container")
        source = role == "source"
        super().__init__(
            f"gate-{role}",
            run_dir,
            run_dir,
            fence=fence,
            freezes="post-dump" if source else "never",
            fenced="never" if source else "pre-resume",
            others="pre-dump" if source else "pre-restore | post-restore",
        )
        self.role, self.leaf, self.root_pid = role, leaf, root_pid
        self.pauses = pauses  # the first dump or pre-dump waits for `begin`, while the container runs
        self.worker = Worker(list(worker))
        self.tool = (0, 0)
        self.frozen_ns = 0
        self.fenced = False
        self.met = (0, 0, 0)  # the script's pid, the container's init and the stamp in ns of the last action
        self._turn, self._asked_s = -1, 0.0
        self.closed = False
        self.damage = ""  # what is wrong with the images that the daemon's criu was to restore
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with os.fdopen(self._report_r, encoding="ascii", errors="replace") as lines:
            for line in lines:
                words = line.split()
                if len(words) == 3 and words[1].isdigit() and words[2].isdigit():
                    self._take(words[0], int(words[1]), int(words[2]))

    def _take(self, action: str, script: int, init: int) -> None:
        found = procs.task(script)
        parent = procs.task(found.ppid) if found else None
        with self._changed:
            if parent is not None and action != "pre-restore":  # with a copy to take back it is ours to end
                self.tool = (parent.pid, parent.start_ticks)
            self.met = (script, init, boottime_ns())
            passes = action in PASSING and not (action == "pre-dump" and self.pauses)
            if not passes:
                self.waiting = action
            if action == "pre-dump":  # of each round; the last one begins the freeze
                self.frozen_ns = self.met[2]
            self._changed.notify_all()
        if action == "pre-restore":
            self.damage = damage(script)
        with self._changed:
            if self.closed or passes:  # what waits may have been let go meanwhile
                self.answer("veto" if self.closed or self.damage else "go")

    def plant(self) -> None:
        """Let every criu of the container come to this gate from now on."""
        planted.plant(self.script, self.role, self.leaf, "".join(self.worker.words[1:]), self.root_pid)

    def has_turn(self) -> bool:
        """Tell whether it may begin: at a time as many freeze as the node has processors, or each waits frozen for all.

        One that has waited for TURN_S begins beside the others.
        """
        self._asked_s = self._asked_s or time.monotonic()
        if self._turn < 0:
            self._turn = planted.take_turn(len(os.sched_getaffinity(0)))
        return self._turn >= 0 or time.monotonic() - self._asked_s > TURN_S

    def end_turn(self) -> None:
        """Let the next one begin."""
        turn, self._turn = self._turn, -1
        if turn >= 0:
            os.close(turn)

    def begin(self) -> bool:
        """Let the first dump go on that waits for it; False when none does."""
        with self._changed:
            if self.closed or not self.holds("pre-dump"):
                return False
            self.pauses, self.frozen_ns = False, boottime_ns()
            self.answer("go")
            return True

    @property
    def runs(self) -> bool:
        """Tell whether the daemon's criu was seen and is still there."""
        return self.tool[0] > 0 and procs.alive(*self.tool)

    @property
    def fences(self) -> bool:
        """Tell whether the source was fenced while its criu is held, by the daemon's script or by ours."""
        return self.fenced and self.runs

    def holds(self, action: str) -> bool:
        """Tell whether the tool lives and its script waits for our answer to `action`."""
        return self.waiting == action and self.runs

    @property
    def pid(self) -> int:
        """Return the tool's pid."""
        return self.tool[0]

    @property
    def above(self) -> int:
        """Return the daemon's criu: its script descends from it, and not from us."""
        return self.tool[0]

    def wait_hook(self, action: str, *, stall_s: float) -> tuple[int, int, int]:
        """Wait for an action; raises OpError `tool-failed` when the tool seen so far ends first, `stalled`."""
        deadline = time.monotonic() + stall_s
        with self._changed:
            while self.waiting != action:
                if self.closed or (self.tool[0] and not self.runs):
                    raise OpError("tool-failed", f"the daemon's criu ended before {action}")
                if time.monotonic() > deadline:
                    raise OpError("stalled", f"the daemon's criu did not come to {action} within {stall_s:g} s")
                self._changed.wait(0.05)
            return self.met

    def wait_end(self, timeout_s: float) -> int | None:
        """0 when the tool is gone (its exit status is its parent's to see), None when it is not within the time."""
        deadline = time.monotonic() + timeout_s
        while self.runs:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)
        return 0

    def finish(self, word: str, timeout_s: float) -> int | None:
        """Answer when the daemon has made up its mind; for a veto its script is ended, and ours speaks next."""
        self.end_turn()
        if word == "go":
            with contextlib.suppress(OpError):
                self.wait_hook("post-dump", stall_s=timeout_s)
                self.answer("go")
            return self.wait_end(timeout_s)
        self.stop(timeout_s)
        return self.wait_end(0.0)

    def stop(self, grace_s: float = 20.0) -> None:
        """From now on every action gets a veto; the daemon's own script is ended, at last criu itself."""
        self.end_turn()
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + grace_s
        while self.runs and time.monotonic() < deadline:
            if self.waiting:
                self.answer("veto")
            else:  # mostly the daemon's script; were it ours already, its death is a veto too
                _kill_below(self.tool[0])
            self.wait_end(0.1)
        for with_signal in (signal.SIGTERM, signal.SIGKILL):
            if self.wait_end(5.0 if with_signal == signal.SIGKILL else 0.0) is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.tool[0], with_signal)

    def errors(self) -> str:
        """Nothing: the daemon keeps criu's log."""
        return ""


class Worker:
    """The daemon's process that starts criu, known by the words after its program's name.

    When it stays without a criu below it, the restore has failed, long before the daemon says so (LXD 5.0.2 waits 60 s
    for a hook of its own, and sometimes reports success then). It is not ended for that: the daemon would stay "busy"
    with this name until it is restarted.
    """

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self._looked_s = 0.0
        self._idle = 0

    def failed(self) -> list[str]:
        """Its command line when it has idled in some looks, 0.3 s apart; empty as long as it has not."""
        if time.monotonic() - self._looked_s < 0.3:
            return []
        self._looked_s = time.monotonic()
        if (found := self._found()) is None:
            return []
        pid, line = found
        below = [task for task in procs.tree(pid)[1:] if task.state not in "ZX"]  # liblxc collects the dead ones late
        self._idle = 0 if any(task.comm == "criu" for task in below) else self._idle + 1
        begun = any(os.path.exists(os.path.join(word, "restore.log")) for word in line if word.startswith("/"))
        stops = any(_is_stop(procs.command_line(task.pid)) for task in below)
        return line if self._idle >= (IDLE_LOOKS if begun or stops else SLOW_LOOKS) else []

    def _found(self) -> tuple[int, list[str]] | None:
        lines = ((task.pid, procs.command_line(task.pid)) for task in procs.all_tasks())
        ours = ((pid, line) for pid, line in lines if self.words and line[1 : 1 + len(self.words)] == self.words)
        return next(ours, None)


def _is_stop(line: Sequence[str]) -> bool:
    """Tell whether this is the daemon's own hook of a container that ends (`lxd callhook PATH PROJECT NAME stopns`)."""
    return "callhook" in line and line[-1] in ("stopns", "stop")


def dumped(words: list[str]) -> dict[str, Any]:
    """Return what the dump of this command line has written: sizes of the final images, and each pre-dump round
    before it.

    The daemon makes a directory a round beside that of the final dump, and criu writes its counters into each.
    """
    final = words[words.index("-D") + 1] if "-D" in words[:-1] else ""
    rounds = []
    with contextlib.suppress(OSError):
        for name in sorted((n for n in os.listdir(os.path.dirname(final)) if n.isdecimal()), key=int):
            path = os.path.join(os.path.dirname(final), name)
            stats = read_dump_stats(os.path.join(path, "stats-dump"))
            if stats:
                rounds.append({**stats, "bytes": _size(path, "pages-")})
    return {"pages_bytes": _size(final, "pages-"), "images_bytes": _size(final, ""), "rounds": rounds}


def _size(directory: str, prefix: str) -> int:
    """Bytes of the images whose names begin so; 0 for a directory that is not there."""
    with contextlib.suppress(OSError):
        found = os.scandir(directory)
        return sum(e.stat().st_size for e in found if e.name.startswith(prefix) and e.name.endswith(".img"))
    return 0


def damage(script: int) -> str:
    """Return what is wrong with the images that the criu of this script is about to restore; empty: nothing known."""
    try:
        return lacking(procs.environment(script).get("CRTOOLS_IMAGE_DIR", ""))
    except OpError as error:
        return error.message
    except OSError:
        return ""  # criu itself will say it


def end_left(pid: int, start_ticks: int) -> None:
    """End the wait of a daemon's script whose gate died with its helper: the planted script then decides alone."""
    deadline = time.monotonic() + 20.0
    while procs.alive(pid, start_ticks) and time.monotonic() < deadline:
        _kill_below(pid)
        time.sleep(0.1)


def _kill_below(pid: int) -> None:
    for task in procs.tree(pid)[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(task.pid, signal.SIGKILL)
