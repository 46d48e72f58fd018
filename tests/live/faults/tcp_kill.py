"""How long kill -9 of criu can cost connections: kills at random moments of a dump, with and without the heal.

Usage: python tests/live/faults/tcp_kill.py [--count N] [--seed N] [--without-heal] [--with-helper]
prints a line a kill, then figures.
With `--with-helper` the source's helper is killed in the same moment: the one that the controller sends next heals.
The workload holds its connections to a child of its own, data always in flight: it notices every single one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from livekit.command import PLAIN, Command
from livekit.stand import Stand, word_of
from workloads import driver

from faults import strike
from faults.run import Field, changed_code
from reberth_lab.lab import Lab
from reberth_lab.node import Node

CONNECTIONS = 20
MOST_DELAY_S = 0.12
HEAL = [("node/runs/source.py", "self._heal()", "pass")]


def kill_once(field: Field, works: Stand, node: Node, env: dict[str, str], with_helper: bool = False) -> dict[str, Any]:
    """One dump that is killed: what the source's journal says of it, and what the workload says."""
    handle = works.raw("tcp", "--count", str(CONNECTIONS))
    process = field.command.start("move", *PLAIN, "--json", "--", word_of(node, handle), "node2:", env=env)
    delay_s = field.chance.uniform(0, MOST_DELAY_S)
    while not dumping(node) and process.poll() is None:
        time.sleep(0.0005)
    time.sleep(delay_s)
    victims = [*dumping(node), *(strike.helpers(node) if with_helper else [])]
    killed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for one in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
    done = field.command.finish(process)
    journal = source_journal(node, str(done.report.get("id")))
    found = driver.verify(node if done.code == 20 else field.nodes[1], handle)
    works.stop(handle)
    begun = next((r["boot_ns"] for r in journal if r["event"] == "freezing"), killed_ns)
    healed = sum(r["sockets"] for r in journal if r["event"] == "healed")
    return {
        "code": done.code,
        "after_freezing_s": round((killed_ns - begun) / 1e9, 4),
        "held": any(r["event"] == "held" for r in journal),
        "in_repair": healed,
        "lost": sum("connection" in problem for problem in found["problems"]),
        "problems": found["problems"][:2],
    }


def dumping(node: Node) -> list[strike.Found]:
    """The criu that dumps; the preflight asks others for their version and the processor (`criu cpuinfo dump`)."""
    return [one for one in strike.tools(node, "criu") if one.words[1:2] == ("dump",)]


def source_journal(node: Node, run_id: str) -> list[dict[str, Any]]:
    """The node's own journal of an ended run."""
    path = node.root / "var/lib/reberth/ended" / run_id / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> int:
    """Kill, and count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-heal", action="store_true")
    parser.add_argument("--with-helper", action="store_true")
    words = parser.parse_args()
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "soak", say=lambda _: None)
    lab.up(2)
    rows = []
    with tempfile.TemporaryDirectory(prefix="reberth-tcp-") as place, contextlib.ExitStack() as stack:
        env = stack.enter_context(changed_code(Path(place), HEAL)) if words.without_heal else {}
        field = Field(lab, Command(lab.config_path, Path(place)), random.Random(words.seed))
        works = Stand(field.nodes)
        for number in range(words.count):
            field.watch()
            row = kill_once(field, works, field.nodes[0], env, words.with_helper)
            rows.append(row)
            sys.stdout.write(f"{number + 1} {json.dumps(row)}\n")
            sys.stdout.flush()
        works.stop_all()
    for name, some in (
        ("before held", [r for r in rows if r["code"] == 20 and not r["held"]]),
        ("of these with sockets in repair mode", [r for r in rows if r["in_repair"] and not r["held"]]),
        ("held", [r for r in rows if r["held"]]),
    ):
        hurt = sum(bool(row["lost"]) for row in some)
        sys.stdout.write(f"{name}: {len(some)} kills, {hurt} of them cost connections\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
