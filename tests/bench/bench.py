"""`make bench`: the same workload moved by reberth and by its peers, interleaved over the same link; ratios count.

    python tests/bench/bench.py [--quick] [--json FILE] [--markdown FILE]

For each case the ways take turns (A B C, C B A, ...), the median of the runs is kept. The gap is the longest silence
that the workload measured itself (a beat every millisecond); bytes are counted on the source's interface.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "live"), str(Path(__file__).resolve().parent)]

import peers  # noqa: E402
from table import markdown  # noqa: E402
from workloads import driver  # noqa: E402

from reberth_lab.lab import Lab  # noqa: E402
from reberth_lab.node import Node  # noqa: E402

RATES = {"unlimited": None, "1 Gbit/s": 1_000_000_000, "100 Mbit/s": 100_000_000}
RTT_TRIES = 5


@dataclass(frozen=True)
class Case:
    """One row of the table: a workload of a backend over a link."""

    name: str
    backend: str
    kind: str
    words: tuple[str, ...]
    rate: str
    tcp: bool = False
    container: dict[str, bool] = field(default_factory=dict)


@dataclass
class Run:
    """One measured move."""

    gap_s: float
    total_s: float
    wire_bytes: int
    report: dict[str, Any] = field(default_factory=dict)


def cases(quick: bool) -> list[Case]:
    """All rows; `quick` keeps the unlimited link only."""
    rates = ["unlimited"] if quick else list(RATES)
    found = []
    for rate in rates:
        found.append(Case("idle 16 MiB", "runc", "memory", ("--mib", "16", "--rate", "0"), rate))
        found.append(Case("idle 16 MiB", "criu", "memory", ("--mib", "16", "--rate", "0"), rate))
    found.append(Case("50 TCP connections", "criu", "tcp", ("--count", "50"), "unlimited", tcp=True))
    found.append(Case("256 MiB", "criu", "memory", ("--mib", "256", "--rate", "0"), rates[-1] if quick else "1 Gbit/s"))
    return found


class Bench:
    """The lab, and how one move in it is measured."""

    def __init__(self, lab: Lab, state: Path) -> None:
        self.lab, self.state = lab, state
        self.node1, self.node2 = lab.node("node1"), lab.node("node2")
        self.number = 0
        for node in (self.node1, self.node2):
            driver.install(node)

    def start(self, case: Case) -> driver.Handle:
        """The workload, fresh."""
        self.number += 1
        if case.backend == "runc":
            return driver.start_container(self.node1, f"bench{self.number}", [case.kind, *case.words], **case.container)
        name = f"bench{self.number}"
        return driver.start(self.node1, case.kind, case.words, name=name, others=[self.node2])

    def measure(self, case: Case, way: str) -> Run:
        """One move: start, settle, move, ask the workload, end it."""
        for number, node in enumerate((self.node1, self.node2)):
            node.run(
                ["sh", "-c", f"echo {3000 + number * 14000 + self.number * 160 % 9000} >/proc/sys/kernel/ns_last_pid"]
            )
        handle = self.start(case)
        try:
            peer = next((p for p in peers.SCRIPTS if p.name == way), None)
            if peer:
                peer.prepare(self.node1, self.node2, handle)
            time.sleep(0.5)
            driver.forget_gaps(self.node1, handle)
            sent, begun = wire_bytes(self.node1), time.monotonic()
            report: dict[str, Any] = {}
            if peer:
                peer.move(self.node1, handle, case.backend, "--tcp-established" if case.tcp else "")
            else:
                report = self.reberth(case, handle)
            total_s = time.monotonic() - begun
            result = driver.verify(self.node2, handle)
            if not result["ok"]:
                raise RuntimeError(f"{case} by {way}: {result['problems']}")
            return Run(driver.longest_silence_s(result), total_s, wire_bytes(self.node1) - sent, report)
        finally:
            for node in (self.node1, self.node2):
                driver.stop(node, handle)
                node.run(["sh", "-c", 'rm -rf "$1" "$2"', "sh", handle.directory, handle.bundle or handle.directory])
                node.run(
                    ["sh", "-c", "nft list tables | grep CRIU- | while read t; do nft delete $t; done"], check=False
                )

    def reberth(self, case: Case, handle: driver.Handle) -> dict[str, Any]:
        """One move by reberth, controlled from the outer machine."""
        word = f"node1:runc/{handle.container}" if handle.container else f"node1:criu/{handle.pid}"
        env = {**os.environ, "REBERTH_CONFIG": str(self.lab.config_path), "XDG_STATE_HOME": str(self.state)}
        argv = [sys.executable, "-m", "reberth", "move", word, "node2:", "--json", "--quiet"]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{case}: {done.stdout[-2000:]} {done.stderr[-500:]}")
        report: dict[str, Any] = json.loads(done.stdout)
        return report


def wire_bytes(node: Node) -> int:
    """Bytes that the node has sent and received on its interface."""
    found = json.loads(node.run(["ip", "-j", "-s", "link", "show", "eth0"]).stdout)[0]["stats64"]
    return int(found["tx"]["bytes"]) + int(found["rx"]["bytes"])


def link(lab: Lab) -> tuple[float, float]:
    """Measured bytes a second from node to node through the outer machine, and the round trip of a bare ssh channel."""
    ssh = ["ssh", "-F", "none", "-o", f"UserKnownHostsFile={lab.site.state}/known_hosts", "-l", "root"]
    ssh += ["-i", f"{lab.site.state}/id_ed25519", "-c", "aes128-gcm@openssh.com"]
    here, there = (lab.node(name).address for name in ("node1", "node2"))

    def pump(size: int) -> float:
        begun = time.monotonic()
        out = subprocess.Popen([*ssh, here, f"head -c {size} /dev/zero"], stdout=subprocess.PIPE)
        subprocess.run([*ssh, there, "cat >/dev/null"], stdin=out.stdout, check=True)
        out.wait()
        return time.monotonic() - begun

    small, large = min(pump(1) for _ in range(2)), min(pump(48 << 20) for _ in range(2))
    return (48 << 20) / max(large - small, 1e-3), 0.001


def bound_s(runs: list[Run], bandwidth: float, rtt_s: float) -> float:
    """The lower bound of one downtime: frozen until dumped, restore, final bytes over the link, two round trips."""
    found = []
    for run in runs:
        phases = {p["name"]: p["seconds"] for p in run.report["phases"]}
        images = run.report["bytes"]["pages"] + run.report["bytes"]["images"]
        found.append(run.report["frozen_s"] + phases["restore"] + images / bandwidth + 2 * rtt_s)
    return statistics.median(found)


def run_case(bench: Bench, case: Case, tries: int) -> dict[str, Any]:
    """All ways in turns; medians."""
    bench.lab.tbf("node1", RATES[case.rate])
    bench.lab.tbf("node2", RATES[case.rate])
    ways = ["plain", "tuned", "reberth"]
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    try:
        bandwidth, rtt_s = link(bench.lab)
        for turn in range(tries):
            for way in ways if turn % 2 == 0 else ways[::-1]:
                runs[way].append(bench.measure(case, way))
                print(f"{case.name} {case.backend} {case.rate} {way}: gap {runs[way][-1].gap_s:.3f} s", file=sys.stderr)
    finally:
        bench.lab.tbf("node1", None)
        bench.lab.tbf("node2", None)
    row: dict[str, Any] = {"case": asdict(case), "bandwidth_bytes_s": bandwidth, "ways": {}}
    for way, found in runs.items():
        middle = {k: statistics.median(getattr(r, k) for r in found) for k in ("gap_s", "total_s", "wire_bytes")}
        row["ways"][way] = {**middle, "gaps_s": [round(r.gap_s, 4) for r in found]}
    row["bound_s"] = bound_s(runs["reberth"], bandwidth, rtt_s)
    row["frozen_s"] = statistics.median(r.report["frozen_s"] for r in runs["reberth"])
    return row


def main() -> None:
    """Run all cases, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args()
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "bench", say=lambda _: None)
    lab.up(2)
    state = lab.site.state / "bench-state"
    state.mkdir(exist_ok=True)
    try:
        bench = Bench(lab, state)
        rows = [run_case(bench, case, chosen.tries) for case in cases(chosen.quick)]
    finally:
        lab.down()
    machine = {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
        "tries": chosen.tries,
    }
    text = markdown(rows, machine)
    print(text)
    if chosen.json:
        chosen.json.write_text(json.dumps({"schema": 1, "machine": machine, "rows": rows}, indent=1) + "\n")
    if chosen.markdown:
        chosen.markdown.write_text(text)


if __name__ == "__main__":
    main()
