"""`make soak`: one workload goes there and back for hundreds of hops; then all is as it was before: nothing grows.

Usage: python tests/live/faults/hops.py [--hops N] [--seed N] [--backend NAME]... [--log FILE]

Each hop takes a way of the seed's choice (straight or through this machine, memory ahead or not, lazy or not). Two hops
warm everything up; what is counted then is counted again at the end, on the same node.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads.driver import Handle

from faults.run import Field
from faults.strike import on_node
from reberth_lab import cgroups
from reberth_lab.lab import Lab
from reberth_lab.node import Node

BACKENDS = ("criu", "runc")
WARM = 2
WAYS = {
    "straight": "",
    "whole": "\n[defaults]\nmemory_ahead = false\n",
    "eager": "\n[defaults]\nlazy_restore = false\n",
}
# What the pages of a moved program may differ by: page tables and the like are made anew, the allocator's rest is not.
MEMORY_SHARE = 0.05


@dataclass
class Soak:
    """How the hops of one backend ended; `problems` is empty when nothing grew."""

    backend: str
    seed: int
    hops: int = 0
    seconds: float = 0.0
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def descriptors(pid: int) -> int:
    """How many a process has open; 0 when it has gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def anonymous_kib(pid: int) -> int:
    """The memory of a process that no file holds."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def counted(nodes: Sequence[Node], handle: Handle) -> dict[str, float]:
    """Numbers that must not grow: of the workload, and of everything else on each node."""
    found: dict[str, float] = {}
    workload = [one for one in on_node(nodes[0]) if handle.directory in one.words or "/state" in one.words]
    assert workload, f"nothing of {handle} runs on {nodes[0].name}"
    found["workload: processes"] = len(workload)
    found["workload: descriptors"] = sum(descriptors(one.pid) for one in workload)
    found["workload: anonymous KiB"] = sum(anonymous_kib(one.pid) for one in workload)
    for node in nodes:
        rest = [pid for pid in cgroups.processes(node.cgroup) if pid not in {one.pid for one in workload}]
        found[f"{node.name}: other processes"] = len(rest)
        found[f"{node.name}: their descriptors"] = sum(map(descriptors, rest))
        found[f"{node.name}: their anonymous KiB"] = sum(map(anonymous_kib, rest))
        shared = node.run(["df", "--output=used", "-k", "/dev/shm", "/run"]).stdout.split()[1:]
        found[f"{node.name}: /dev/shm and /run KiB"] = sum(map(int, shared))
    return found


def renamed(lines: Sequence[str]) -> list[str]:
    """Without what has only another name: a cgroup is called by its newest run, a container gets new pids."""
    named = re.compile(r"(?<=/reberth-)\S+|(?<=processes: new: )\d+|(?<=processes: gone: )\d+")
    plain = [named.sub("", line) for line in lines]
    came = Counter(line.replace(": new: ", ": ", 1) for line in plain if ": new: " in line)
    went = Counter(line.replace(": gone: ", ": ", 1) for line in plain if ": gone: " in line)
    left = (came - went) + (went - came)
    return [
        line for line, one in zip(lines, plain, strict=True) if re.sub(": (new|gone): ", ": ", one, count=1) in left
    ]


def grown(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """What is not as it was."""
    lines = []
    for key, old in before.items():
        new = after[key]
        spare = max(64.0, old * MEMORY_SHARE) if "KiB" in key else 0.0
        if abs(new - old) > spare:
            lines.append(f"{key}: {old:g} before, {new:g} after")
    return lines


def hop(field_: Field, handle: Handle, here: Node, there: Node, chance: random.Random) -> list[str]:
    """One move; returns what went wrong."""
    way = chance.choice([*WAYS, "piped"])
    env = field_.piped() if way == "piped" else written(field_, way)
    done = field_.command.move(word_of(here, handle), f"{there.name}:", env=env)
    if done.code != 0:
        return [f"{here.name} to {there.name} ({way}): {done}"]
    if not gone(here, handle):
        return [f"something of it runs on {here.name} as well ({way})"]
    healthy(there, handle)
    return []


def written(field_: Field, way: str) -> dict[str, str]:
    """The environment of one way."""
    path = field_.command.state / f"{way}.toml"
    if not path.exists():
        path.write_text(field_.command.config.read_text(encoding="utf-8") + WAYS[way], encoding="utf-8")
    return {"REBERTH_CONFIG": str(path)}


def soak(field_: Field, backend: str, hops: int, seed: int) -> Soak:
    """All hops of one backend."""
    result, chance = Soak(backend, seed), random.Random(f"{seed}/{backend}")
    works = Stand(field_.nodes)
    empty = field_.watch()
    begun_s = time.monotonic()
    full: Watch | None = None
    nodes = list(field_.nodes)
    words = ("pulse", "--mib", "8")
    handle = works.container(*words) if backend == "runc" else works.raw(*words)
    try:
        for number in range(WARM + hops):
            if number == WARM:
                full, result.before = empty.again(), counted(nodes, handle)
            result.problems += hop(field_, handle, nodes[0], nodes[1], chance)
            if result.problems:
                break
            nodes.reverse()
            result.hops = max(0, number + 1 - WARM)
            say(f"{backend}: hop {number + 1}")
        if full and not result.problems:
            result.problems += [f"while it ran: {line}" for line in renamed(full.leftovers(patience_s=5))]
            result.after = counted(nodes, handle)
            result.problems += grown(result.before, result.after)
    except AssertionError as error:
        result.problems.append(str(error))
    finally:
        works.stop_all()
    result.problems += [f"after its end: {line}" for line in empty.leftovers(patience_s=30)]
    result.seconds = round(time.monotonic() - begun_s, 1)
    return result


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures for docs/reliability.md."""
    lines = ["| backend | hops | seconds | what | before | after |", "|---|---|---|---|---|---|"]
    for one in results:
        head = f"| {one['backend']} | {one['hops']} | {one['seconds']} "
        lines += [f"{head}| {key} | {old:g} | {one['after'].get(key, 0):g} |" for key, old in one["before"].items()]
        lines += [f"{head}| PROBLEM: {problem} | | |" for problem in one["problems"]]
    return lines


def say(text: str) -> None:
    """Progress, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Both backends; exit status 1 when something grew or failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hops", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("REBERTH_FAULT_SEED", "1")))
    parser.add_argument("--backend", action="append", choices=BACKENDS, default=[])
    parser.add_argument("--log", type=Path, default=Path("hops.jsonl"))
    words = parser.parse_args()
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "soak", say=lambda _: None)
    lab.down()
    lab.up(2)
    results = []
    with tempfile.TemporaryDirectory(prefix="reberth-soak-") as place:
        field_ = Field(lab, Command(lab.config_path, Path(place)), random.Random(words.seed))
        for backend in words.backend or BACKENDS:
            results.append(soak(field_, backend, words.hops, words.seed).__dict__)
            with words.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(results[-1]) + "\n")
    lab.down()
    say("\n".join(table(results)))
    return 1 if any(one["problems"] for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
