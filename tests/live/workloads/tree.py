"""A tree of many processes with their own memory, sessions and process groups."""

from __future__ import annotations

import argparse
import os
import signal
import time
from typing import Optional

from workloads.base import ANSWER_LIMIT_S, PAGE_BYTES, Checks, Workload, content, first_difference, wait_until
from workloads.board import Board

PAUSE_S = 0.01
OWN_PAGES = 16
ZOMBIE_STATUS = 7
SPOIL_MEMORY = 1
SPOIL_GROUP = 2


class Tree(Workload):
    """``--processes`` processes in a binary tree, each with memory of its own that it keeps changing.

    Some lead a session or a process group; beside them a stopped process and a zombie that nobody has waited for.
    """

    kind = "tree"
    plants = ("kill", "memory", "group", "reap", "continue")

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Size of the tree."""
        parser.add_argument("--processes", type=int, default=64)
        parser.add_argument("--without-stopped", action="store_true")
        parser.add_argument("--without-zombie", action="store_true")

    def setup(self) -> None:
        """Fork them all and wait until each has answered once."""
        self.number: int = self.options.processes
        self.board = Board(self.number)
        self.zombie: Optional[int] = None
        self.stopped: Optional[int] = None
        self.others = range(1, self.number)
        self._fork_children(0)
        if not self.options.without_zombie:
            self.zombie = _fork_zombie()
        if not self.options.without_stopped:
            self.stopped = _fork_stopped()
        silent = self.board.wait(self.others, self.board.ask(), ANSWER_LIMIT_S * 2)
        if silent:
            raise RuntimeError(f"processes {silent} did not come up")
        self.expected = {index: self.board.read(index)[:4] for index in self.others}
        self.beats = {index: self.board.read(index)[4] for index in self.others}

    def verify(self, checks: Checks) -> None:
        """Ask each process for its place in the tree and for the state of its memory."""
        silent = self.board.wait(self.others, self.board.ask(), ANSWER_LIMIT_S)
        checks.expect(not silent, f"processes {silent} do not answer")
        for index in self.others:
            if index not in silent:
                values = self.board.read(index)
                checks.equal(f"process {index}: pid, ppid, pgid, sid", values[:4], self.expected[index])
                checks.expect(values[5] < 0, f"process {index}: memory differs at byte {values[5]}")
                checks.expect(values[4] >= self.beats[index], f"process {index} went back in time")
                self.beats[index] = values[4]
        checks.count("processes", self.number)
        if self.zombie:
            checks.equal("status of the zombie", _zombie_status(self.zombie), ZOMBIE_STATUS)
            checks.count("zombies")
        if self.stopped:
            checks.equal("state of the stopped process", _state(self.stopped), "T")
            checks.count("stopped")

    def plant(self, kind: str) -> None:
        """Damage the last process, the zombie or the stopped one."""
        last = self.number - 1 - (self.number % 16 == 6)  # not a session leader: its group cannot change
        if kind == "kill":
            os.kill(self.expected[last][0], signal.SIGKILL)
        elif kind == "memory":
            self.board.order(last, SPOIL_MEMORY)
            wait_until(lambda: self.board.answered(last) == -SPOIL_MEMORY, 1)
        elif kind == "group":
            self.board.order(last, SPOIL_GROUP)
            wait_until(lambda: self.board.answered(last) == -SPOIL_GROUP, 1)
        elif kind == "reap" and self.zombie:
            os.waitpid(self.zombie, 0)
        elif kind == "continue" and self.stopped:
            os.kill(self.stopped, signal.SIGCONT)
        else:
            raise KeyError(kind)

    def close(self) -> None:
        """Kill them all; the pids are still ours because nobody has waited for them."""
        pids = [self.board.read(index)[0] for index in self.others]
        for pid in [*pids, self.stopped or 0]:
            if pid > 0:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def _fork_children(self, index: int) -> None:
        for child in (2 * index + 1, 2 * index + 2):
            if child < self.number and os.fork() == 0:
                try:
                    self._live(child, os.getppid())
                finally:
                    os._exit(1)

    def _live(self, index: int, parent: int) -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if index % 16 == 5:
            os.setsid()
        elif index % 8 == 3:
            os.setpgid(0, 0)
        self._fork_children(index)
        memory = bytearray(content(self.seed, f"process {index}", OWN_PAGES * PAGE_BYTES))
        beats = answered = 0
        while os.getppid() == parent:  # ends with its parent, so that nothing is left behind
            time.sleep(PAUSE_S)
            memory[beats % len(memory)] = beats & 0xFF
            beats += 1
            self._obey(index, memory, beats)
            if self.board.serial != answered:
                answered = self.board.serial
                place = [os.getpid(), os.getppid(), os.getpgid(0), os.getsid(0)]
                self.board.answer(index, answered, [*place, beats, self._difference(index, memory, beats)])

    def _obey(self, index: int, memory: bytearray, beats: int) -> None:
        command = self.board.command(index)
        if command == SPOIL_MEMORY:
            memory[(beats - 2) % len(memory)] ^= 0x80
        elif command == SPOIL_GROUP:
            os.setpgid(0, os.getpgid(os.getppid()) if os.getpgid(0) == os.getpid() else 0)
        if command:
            self.board.order(index, 0)
            self.board.answer(index, -command, [])

    def _difference(self, index: int, memory: bytearray, beats: int) -> int:
        """Where the memory differs from what it must be, or -1."""
        expected = bytearray(content(self.seed, f"process {index}", OWN_PAGES * PAGE_BYTES))
        for beat in range(max(0, beats - len(expected)), beats):
            expected[beat % len(expected)] = beat & 0xFF
        return -1 if memory == expected else first_difference(memory, expected)


def _fork_zombie() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(ZOMBIE_STATUS)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def _fork_stopped() -> int:
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(3600)  # continued by mistake: stays, but is seen as not stopped
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    return pid


def _zombie_status(pid: int) -> Optional[int]:
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_status if found else None


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
        return stream.read().rpartition(")")[2].split()[0]
