"""A tool (criu or runc) that is held by its action script: the script reports, waits, and does what it is told.

The script is plain sh without any process of its own on the way through: between freeze and resume nothing is started.
It talks to the helper through two FIFOs of the run's private directory (hook_line.py): a helper that has died is an
error at once and never a wait for ever, and end of file on the answer means the same. Then the script itself decides,
by link(2) on a ballot that lies ready: facts and trials behind each step are in docs/protocol.md.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from reberth.node.criu.hook_line import OPEN, HookLine
from reberth.node.errors import OpError
from reberth.node.system import orphans, procs
from reberth.node.system import spawn as tools
from reberth.node.system.durable import boottime_ns, write_whole
from reberth.node.system.ends import Adopted

SCRIPT = (
    """#!/bin/sh
# Action script of one run of reberth, called by criu for every action; only a few concern us.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
trap '' PIPE
@mine@run='@run@' cgroup='@cgroup@' line='@line@'
case "$CRTOOLS_SCRIPT_ACTION" in
@freezes@)
  # pre-dump: frozen before CRIU polls its freezer (its sleep is 100 ms), and after it has loaded all it needs.
  # post-dump is the fence: CRIU thawed the cgroup to work in it, and now whatever happens to criu or to us, the
  # source does not wake by itself.
  echo 1 > "$cgroup/cgroup.freeze" || exit 1
  tries=0 frozen=0
  while [ "$frozen" != 1 ]; do
    while read -r key value; do [ "$key" = frozen ] && frozen=$value; done < "$cgroup/cgroup.events"
    tries=$((tries + 1)); [ "$tries" -gt 300000 ] && { echo 0 > "$cgroup/cgroup.freeze"; exit 1; }
  done ;;
@fenced@)
  # CRIU ignores what fails here and would let the copy run: so it is fenced before the helper is asked, and if none is
  # there any more it stays so.
  read -r cgroup < "$run/fence" && echo 1 > "$cgroup/cgroup.freeze" ;;
@others@) ;;
*) exit 0 ;;
esac
# An address that moved with the workload, while the network is still locked; the file is the helper's own.
back() { [ ! -e "$run/back.ip" ] || ip -force -batch "$run/back.ip"; :; }
# A CRIU that was killed with the helper has left connections in repair mode: they are healed before anything runs.
broken() {
  [ -n '@keeps@' ] && [ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || return 1
  pid=$$
  sleep 0.1  # one that was killed a moment ago may still be there
  while [ "$pid" -gt 1 ]; do
    while read -r key value; do
      case "$key$value" in Name:criu) return 1 ;; PPid:*) pid=$value ;; esac
    done < "/proc/$pid/status" || return 0
  done
}
# Runs when the helper is gone: before READY the source runs again; a copy is never let go.
alone() {
  case "$CRTOOLS_SCRIPT_ACTION" in
  pre-dump | post-dump)
    ln "$run/vote.RESUME" "$run/vote" 2>/dev/null && sync "$run"
    # A run that has ended meanwhile (before this tool was known to it) has its vote in another place.
    read -r vote < "$run/vote" || read -r vote < "${run%/*}/ended/${run##*/}/vote"
    echo > "$run/alone"
    [ "$vote" = RESUME ] && back && ! broken && echo 0 > "$cgroup/cgroup.freeze" ;;
  post-restore)
    # With a PERMIT that stands `vetoed` is the proof that this copy never ran: what fails here makes criu remove it.
    ln "$run/verdict.ABORT" "$run/verdict" 2>/dev/null || ln "$run/verdict.ABORT" "$run/vetoed" 2>/dev/null
    sync "$run"; back ;;
  esac
  exit 1
}
"""
    + OPEN
    + """\
echo "$CRTOOLS_SCRIPT_ACTION $$ ${CRTOOLS_INIT_PID:-0}" >&8 || alone
exec 8>&-
read -r answer <&9 || alone
[ "$answer" = go ]
"""
)

# End of file: the tool and all its children have ended; a helper that lives ends this one before it lets anything run.
# A script that has acted alone has let the tasks run, and in an ended run frozen ones would stay so.
WATCH = 'read -r _; [ -e "$1/alone" ] || [ ! -d "$1" ] || echo 1 > "$2/cgroup.freeze"'


class Job:
    """One held tool: `spawn`, then `wait_hook` for each action, `answer`, and `wait_end`."""

    def __init__(
        self,
        name: str,
        run_dir: str,
        work_dir: str,
        fence: str = "",
        others: str = "never",
        freezes: str = "pre-dump | post-dump",
        fenced: str = "pre-resume",
        mine: str = "",
        keeps_tcp: bool = False,
        tools: str = "",
    ) -> None:
        """Write the script: at which actions it freezes `fence`, fences a copy, only asks; `mine` may leave first.

        `tools` is the cgroup in which the tool is started, and by which it is found when this helper is no more.
        """
        self.name, self.run_id, self.run_dir = name, os.path.basename(run_dir), run_dir
        self.keeps_tcp, self.fence, self.tools = keeps_tcp, fence, tools
        self.output = os.path.join(work_dir, f"{name}.out")
        self.log = os.path.join(work_dir, f"{name}.log")
        self.work_dir = work_dir
        self.script = os.path.join(run_dir, f"{name}.hook")
        self.process: subprocess.Popen[bytes] | Adopted | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self.ended_ns = 0
        self._ended = threading.Event()
        self.moved: Callable[[], int] = lambda: 0  # what it handed on through us
        self.let_go: Callable[[], None] | None = None  # takes away what it hands it on by: then it fails by itself
        self.waiting = ""  # the action whose script waits for our answer
        self._hooks: queue.Queue[tuple[str, int, int, int]] = queue.Queue()
        self.line = HookLine(run_dir, name)
        self._report_r = self.line.report_r
        text = SCRIPT
        words = {
            "run": run_dir,
            "cgroup": fence,
            "line": self.line.path,
            "others": others,
            "freezes": freezes,
            "fenced": fenced,
            "mine": mine,
            "keeps": "tcp" if keeps_tcp else "",
        }
        for key, value in words.items():
            text = text.replace(f"@{key}@", str(value))
        write_whole(self.script, text, 0o700)

    def spawn(
        self,
        argv: list[str],
        *,
        env: dict[str, str] | None = None,
        cwd: str = "/",
        cgroup: str = "",
        pass_fds: Sequence[int] = (),
        adopted: bool = False,
    ) -> None:
        """Start the tool and listen to its script; it inherits no descriptors but `pass_fds`.

        `adopted`: as a child of init, in its `cgroup`, so that what it restores as its sibling loses no parent.
        """
        marked = {**(env or {}), orphans.MARK: self.run_id}
        alive = self._watch() if self.keeps_tcp else -1
        fds = [*pass_fds, *([alive] if self.keeps_tcp else [])]
        into = cgroup or self.tools
        if adopted:
            self.process = tools.spawn_adopted(argv, output=self.output, cwd=cwd, env=marked, cgroup=into)
        else:
            self.process = tools.spawn(argv, output=self.output, cwd=cwd, env=marked, cgroup=into, pass_fds=fds)
        if self.name == "dump":
            tools.spare(self.process.pid)
        if self.keeps_tcp:
            os.close(alive)
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._reap, daemon=True).start()

    def _watch(self) -> int:
        """Start who freezes the tasks when the tool is killed together with us; returns what the tool must inherit."""
        reader, writer = os.pipe()
        words = tools.entering(self.tools, ["/bin/sh", "-c", WATCH, "sh", self.run_dir, self.fence])
        env = tools.clean_env({orphans.MARK: self.run_id})
        self._watcher = subprocess.Popen(words, stdin=reader, env=env, start_new_session=True)
        os.close(reader)
        return writer

    def _listen(self) -> None:
        with os.fdopen(self._report_r, encoding="ascii", errors="replace") as lines:
            for line in lines:
                words = line.split()
                if len(words) >= 2 and words[1].isdecimal():
                    init = int(words[2]) if len(words) > 2 and words[2].isdecimal() else 0
                    self._hooks.put((words[0], int(words[1]), init, boottime_ns()))

    def _reap(self) -> None:
        assert self.process is not None
        self.process.wait()
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
        self.ended_ns = boottime_ns()
        self._ended.set()
        self._hooks.put(("ended", 0, 0, self.ended_ns))

    def holds(self, action: str) -> bool:
        """Tell whether the tool lives and its script waits for our answer to `action`."""
        return self.waiting == action and self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Return the tool's pid."""
        return self.process.pid if self.process else 0

    def identity(self) -> dict[str, Any]:
        """Return the tool's pid and start time, for the journal: a helper that comes later must know whom to end."""
        found = procs.task(self.pid)
        return {"name": self.name, "pid": self.pid, "start_ticks": found.start_ticks if found else 0}

    def wait_hook(self, action: str, *, stall_s: float) -> tuple[int, int, int]:
        """Wait until the script reports `action`; returns its pid, the workload's init pid and the stamp in ns.

        Raises OpError `tool-failed` when the tool ends first, `stalled` when nothing moves for `stall_s`: it is ended
        with SIGTERM then (CRIU's own time-out covers only the seizing of tasks).
        """
        seen, since = self._pulse(), time.monotonic()
        while True:
            try:
                got, pid, init, stamp_ns = self._hooks.get(timeout=1.0)
            except queue.Empty:
                now = self._pulse()
                if now != seen:
                    seen, since = now, time.monotonic()
                elif time.monotonic() - since > stall_s:
                    self.stop()
                    raise OpError(
                        "stalled", f"{self.name}: nothing moved for {stall_s:g} s", tail=self.errors()
                    ) from None
                continue
            if got == action:
                self.waiting = action
                return pid, init, stamp_ns
            if got == "ended":
                self._hooks.put(("ended", 0, 0, stamp_ns))
                code = self.process.returncode if self.process else None
                raise OpError("tool-failed", f"{self.name} ended with {code} before {action}", tail=self.errors())

    def run_to_end(self, stall_s: float) -> int:
        """Return the exit status of a tool that no script holds; raises OpError `stalled` as `wait_hook` does."""
        seen, since = self._pulse(), time.monotonic()
        while True:
            code = self.wait_end(0.2)
            if code is not None:
                return code
            now = self._pulse()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > stall_s:
                self.stop()
                raise OpError("stalled", f"{self.name}: nothing moved for {stall_s:g} s", tail=self.errors())

    def close(self) -> None:
        """Give back the line of a script that is called no more."""
        self.line.close()

    def _pulse(self) -> tuple[Any, ...]:
        """Return what changes while the tool works: bytes in its directory, its processes and their processor time."""
        total = 0
        with contextlib.suppress(OSError):
            total = sum(e.stat().st_size for e in os.scandir(self.work_dir) if e.is_file(follow_symlinks=False))
        ticks = []  # of its children too: they do the reading in a restore, and all the work under runc
        for task in procs.tree(self.pid):
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{task.pid}/stat", encoding="ascii", errors="replace") as stat,
            ):
                ticks.append(stat.read().rpartition(")")[2].split()[11:15])
        return total, ticks, self.moved()

    def answer(self, word: str) -> None:
        """Let the waiting script go (`go`) or make it fail (`veto`)."""
        self.waiting = ""
        with contextlib.suppress(OSError):
            os.write(self.line.answer_w, f"{word}\n".encode())

    def wait_end(self, timeout_s: float) -> int | None:
        """Return the tool's exit status, or None when it has not ended in time."""
        if self.process is None:
            return None
        self._ended.wait(timeout_s)  # Popen.wait with a time-out polls, up to 50 ms late
        return self.process.returncode

    @property
    def above(self) -> int:
        """Pid from which the tool and its script descend as long as the tool lives."""
        return self.process.pid if isinstance(self.process, Adopted) else os.getpid()

    @property
    def fences(self) -> bool:
        """Tell whether the dump is complete and cannot end before we say so."""
        return self.waiting == "post-dump"

    def stop(self, grace_s: float = 5.0) -> None:
        """End the tool: one that fails by itself is waited for, then SIGTERM, then SIGKILL.

        A CRIU that fails takes its code out of the tasks; of one that is killed they may die (seen 2026-11-28).
        """
        if self.process is None or self.process.poll() is not None:
            return
        if self.let_go is not None:
            self.let_go()
            if self.wait_end(grace_s) is not None:
                return
        tools.kill_group(self.process, signal.SIGTERM)
        if self.wait_end(grace_s) is None:
            tools.kill_group(self.process, signal.SIGKILL)
            self.wait_end(grace_s)

    def errors(self) -> str:
        """Return the tool's own first error lines."""
        return tools.first_errors(self.log, os.path.join(self.work_dir, "criu.log"), self.output)
