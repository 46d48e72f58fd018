"""A post-copy that is under way: when its copy runs, what of its memory is there, and whether that is right."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.driver import Handle

from livekit.command import Command, Done, journal_of
from livekit.stand import word_of
from reberth_lab.lab import Lab
from reberth_lab.node import Node

LIMIT_S = 40.0
SLOW_BIT_S = 40_000_000

# The workload stamps each page with its own number: where two thousand of these follow each other, there it is.
FIND = r"""
import struct, sys
pid, wanted = sys.argv[1], int(sys.argv[2]) << 20
with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
    for line in open(f"/proc/{pid}/maps"):
        begin, end = (int(x, 16) for x in line.split()[0].split("-"))
        if "r" not in line.split()[1] or end - begin < wanted:
            continue
        for base in range(begin, end - wanted + 4096, 4096):
            for page in range(1, 2000, 3):
                memory.seek(base + page * 4096)
                if struct.unpack("<Q", memory.read(8))[0] != page:
                    break
            else:
                print(base)
                sys.exit()
sys.exit("no such memory")
"""
# Reads every page that is present, without asking for one that is missing; a page of zeros has not its number.
LOOK = r"""
import json, struct, sys
pid, base, pages = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) * 256
wrong = []
with open(f"/proc/{pid}/pagemap", "rb") as table, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
    table.seek(base // 4096 * 8)
    flags = table.read(8 * pages)
    there = [i for i in range(pages) if flags[8 * i + 7] & 0xC0]
    for page in there:
        memory.seek(base + page * 4096)
        if struct.unpack("<Q", memory.read(8))[0] != page:
            wrong.append(page)
print(json.dumps({"pages": pages, "present": len(there), "wrong": wrong[:10]}))
"""


@dataclass
class Filling:
    """One `reberth move --mode post-copy` whose copy runs and still misses pages."""

    command: Command
    process: subprocess.Popen[str]
    id: str
    source: Node
    target: Node

    def records(self, node: Node) -> list[dict[str, Any]]:
        """The node's journal of this run, open or ended."""
        for place in ("", "ended/"):
            path = node.root / f"var/lib/reberth/{place}{self.id}/journal.jsonl"
            if path.exists():
                return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return []

    def has(self, node: Node, event: str) -> bool:
        """Whether the node has journaled this."""
        return any(record["event"] == event for record in self.records(node))

    def wait(self, node: Node, event: str, limit_s: float = LIMIT_S) -> None:
        """Wait for that."""
        end_s = time.monotonic() + limit_s
        while not self.has(node, event):
            if event == "running" and self.process.poll() is not None:
                raise AssertionError(f"the move has ended: {self.finish()}")
            assert time.monotonic() < end_s, f"{node.name} never wrote {event}: {self.records(node)[-3:]}"
            time.sleep(0.02)

    def finish(self) -> Done:
        """The end of the command."""
        return self.command.finish(self.process)

    def helper(self, node: Node) -> int:
        """The pid of the helper that serves the run there."""
        records = [r for r in self.records(node) if r["event"] in ("open", "adopted")]
        return int(records[-1]["helper"])

    def recover(self, *words: str) -> Done:
        """`reberth recover ID`."""
        return self.command.run("recover", self.id, *words, "--json")


@contextmanager
def begun(
    lab: Lab,
    reberth: Command,
    handle: Handle,
    nodes: tuple[Node, Node],
    *options: str,
    rate_bit_s: int = SLOW_BIT_S,
) -> Iterator[Filling]:
    """A post-copy over a slow link, seen until its copy runs; the link is as fast as before when this is left."""
    known = set(_runs(reberth.state))
    lab.tbf(nodes[0].name, rate_bit_s)
    words = ("move", "--mode", "post-copy", *options, "--json", "--", word_of(nodes[0], handle), f"{nodes[1].name}:")
    process = reberth.start(*words)
    try:
        end_s = time.monotonic() + LIMIT_S
        while not (new := set(_runs(reberth.state)) - known):
            assert time.monotonic() < end_s and process.poll() is None, "no run was begun"
            time.sleep(0.01)
        one = Filling(reberth, process, new.pop(), *nodes)
        reberth.ids.append(one.id)
        one.wait(nodes[1], "running")
        yield one
    finally:
        lab.tbf(nodes[0].name, None)
        lab.link_up(nodes[0].name)
        if process.poll() is None:
            process.kill()
            process.communicate()


def _runs(state: Path) -> list[str]:
    top = state / "reberth" / "runs"
    return [path.name for path in top.iterdir()] if top.is_dir() else []


def memory_base(node: Node, pid: int, mib: int) -> int:
    """Where the workload's memory begins; all of it must be there."""
    return int(node.run(["python3", "-I", "-S", "-c", FIND, str(pid), str(mib)]).stdout)


def memory_there(node: Node, pid: int, base: int, mib: int) -> dict[str, Any]:
    """How many pages of that memory are present, and which of them are wrong."""
    done = node.run(["python3", "-I", "-S", "-c", LOOK, str(pid), str(base), str(mib)])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def wait_for_pages(node: Node, pid: int, base: int, mib: int) -> None:
    """Wait until a part of that memory has come."""
    end_s = time.monotonic() + LIMIT_S
    while memory_there(node, pid, base, mib)["present"] < 100:
        assert time.monotonic() < end_s, "no page came"
        time.sleep(0.05)


def state_of(node: Node, pid: int) -> str:
    """`frozen`, `running`, or empty for a process that is gone."""
    program = (
        'at=$(sed -n "s/^0:://p" "/proc/$1/cgroup" 2>/dev/null) && cat "/sys/fs/cgroup$at/cgroup.freeze" 2>/dev/null; :'
    )
    said = node.run(["sh", "-c", program, "sh", str(pid)]).stdout.strip()
    return {"1": "frozen", "0": "running"}.get(said, "")


def controller_said(filling: Filling) -> list[dict[str, Any]]:
    """The controller's journal."""
    return journal_of(filling.command.state, filling.id)
