"""`make bench`: the same workload moved by reberth and by its peers, interleaved over the same link; ratios count.

    python tests/bench/bench.py [--quick] [--case WORDS] [--tries N] [--kind vm] [--json FILE] [--markdown FILE]

For each case the ways take turns (A B C, C B A, ...), the median of the runs is kept. The gap is the longest silence
that the workload measured itself (a beat every millisecond); bytes are counted on the source's interface.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent)]

import gocriu  # noqa: E402
import peers  # noqa: E402
import small  # noqa: E402
from table import markdown  # noqa: E402

from reberth_lab.lab import Lab  # noqa: E402
from reberth_lab.node import Node  # noqa: E402

RATES = {"unlimited": None, "1 Gbit/s": 1_000_000_000, "100 Mbit/s": 100_000_000}
HELP_TRIES = 11
WORDS = {  # MiB, MiB/s dirtied, connections, bits of entropy a byte: the words of small.c
    "idle 16 MiB": ("16", "0", "0"),
    "50 TCP connections": ("16", "0", "50"),
    "256 MiB, 20 MiB/s dirtied": ("256", "20", "0"),
    "96 MiB of two bits a byte, 5 MiB/s dirtied": ("96", "5", "0", "2"),
}


@dataclass(frozen=True)
class Case:
    """One row of the table: a workload of a backend over a link."""

    name: str
    backend: str
    rate: str

    @property
    def tcp(self) -> bool:
        """Whether there are connections to keep."""
        return WORDS[self.name][2] != "0"


@dataclass
class Run:
    """One measured move; `peak_bytes` is the largest memory of the controller."""

    gap_s: float
    total_s: float
    wire_bytes: int
    peak_bytes: int = 0
    report: dict[str, Any] = field(default_factory=dict)


def cases(quick: bool) -> list[Case]:
    """All rows; `quick` keeps the unlimited link only."""
    rates = ["unlimited"] if quick else list(RATES)
    idle = [Case("idle 16 MiB", backend, rate) for rate in rates for backend in ("runc", "criu")]
    return [
        *idle,
        Case("50 TCP connections", "criu", "unlimited"),
        *(Case("256 MiB, 20 MiB/s dirtied", "criu", rate) for rate in rates),
    ]


class Bench:
    """The lab, and how one move in it is measured."""

    def __init__(self, lab: Lab, state: Path) -> None:
        self.lab, self.state = lab, state
        self.node1, self.node2 = lab.node("node1"), lab.node("node2")
        self.nodes = [self.node1, self.node2]
        self.env = {**os.environ, "REBERTH_CONFIG": str(lab.config_path), "XDG_STATE_HOME": str(state)}
        self.number = 0
        small.install(self.nodes, state)
        self.no_phaul = gocriu.install(self.nodes, state / "phaul")
        if self.no_phaul:
            print(f"go-criu's phaul is not measured: {self.no_phaul}", file=sys.stderr)

    def measure(self, case: Case, way: str) -> Run:
        """One move: start, settle, move, ask the workload, end it."""
        self.number += 1
        for number, node in enumerate(self.nodes):  # else the pid may be taken on the target
            pid = 3000 + number * 14000 + self.number * 160 % 9000
            node.run(["sh", "-c", f"echo {pid} >/proc/sys/kernel/ns_last_pid"])
        name, words = f"bench{self.number}", list(WORDS[case.name])
        if case.backend == "runc":
            workload = small.start_container(self.node1, name, words)
        else:
            workload = small.start(self.node1, [self.node2], name, words)
        try:
            peer = next((p for p in peers.SCRIPTS if p.name == way), None)
            if peer:
                peer.prepare(self.node1, self.node2, workload)
            elif way == "phaul":
                gocriu.prepare(self.node1, self.node2, workload)
            time.sleep(0.5)
            small.forget(self.node1, workload)
            sent, begun = wire_bytes(self.node1), time.monotonic()
            run = Run(0.0, 0.0, 0)
            if peer:
                peer.move(self.node1, workload, case.backend, "--tcp-established" if case.tcp else "")
            elif way == "phaul":
                gocriu.move(self.node1, self.node2, workload, case.tcp)
            else:
                run.report, run.peak_bytes = self.reberth(case, workload)
            run.total_s = time.monotonic() - begun
            run.gap_s, run.wire_bytes = small.gap_s(self.node2, workload), wire_bytes(self.node1) - sent
            return run
        finally:
            for node in self.nodes:
                small.stop(node, workload)
                node.run(
                    ["sh", "-c", "nft list tables | grep CRIU- | while read t; do nft delete $t; done"], check=False
                )

    def reberth(self, case: Case, workload: small.Small) -> tuple[dict[str, Any], int]:
        """One move by reberth, controlled from the outer machine; its report and the controller's peak memory."""
        word = f"node1:runc/{workload.container}" if workload.container else f"node1:criu/{workload.pid}"
        argv = [sys.executable, "-m", "reberth", "move", word, "node2:", "--json", "--quiet"]
        with (self.state / "out").open("w+b") as out:
            process = subprocess.Popen(argv, env=self.env, stdout=out, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            text = out.read().decode(errors="replace")
        if process.returncode != 0:
            raise RuntimeError(f"{case}: {text[-2000:]}")
        report: dict[str, Any] = json.loads(text)
        return report, usage.ru_maxrss * 1024

    def help_s(self) -> float:
        """Median time of `reberth --help`, warm."""
        found = []
        for _ in range(HELP_TRIES):
            begun = time.monotonic()
            subprocess.run([sys.executable, "-m", "reberth", "--help"], env=self.env, check=True, capture_output=True)
            found.append(time.monotonic() - begun)
        return statistics.median(found)


def wire_bytes(node: Node) -> int:
    """Bytes that the node has sent and received on its interface."""
    found = json.loads(node.run(["ip", "-j", "-s", "link", "show", "eth0"]).stdout)[0]["stats64"]
    return int(found["tx"]["bytes"]) + int(found["rx"]["bytes"])


def link(lab: Lab, rate_bit_s: int | None) -> tuple[float, float]:
    """Bytes a second from node to node as two joined ssh connections bring them, and the round trip to a node in s."""
    ssh = ["ssh", "-F", "none", "-o", f"UserKnownHostsFile={lab.site.state}/known_hosts", "-l", "root"]
    ssh += ["-i", f"{lab.site.state}/id_ed25519", "-c", "aes128-gcm@openssh.com,chacha20-poly1305@openssh.com"]
    here, there = (lab.node(name).address for name in ("node1", "node2"))
    sample = 48 << 20 if rate_bit_s is None or rate_bit_s > 200_000_000 else 8 << 20

    def pump(size: int) -> float:
        begun = time.monotonic()
        out = subprocess.Popen([*ssh, here, f"head -c {size} /dev/zero"], stdout=subprocess.PIPE)
        subprocess.run([*ssh, there, "cat >/dev/null"], stdin=out.stdout, check=True)
        out.wait()
        return time.monotonic() - begun

    def trip() -> float:
        begun = time.monotonic()
        socket.create_connection((here, 22), timeout=5).close()
        return time.monotonic() - begun

    least, most = min(pump(1) for _ in range(2)), min(pump(sample) for _ in range(2))
    return sample / max(most - least, 1e-3), min(trip() for _ in range(5))


def bound_s(run: Run, bandwidth: float, rtt_s: float) -> float:
    """The bound of one downtime: frozen until dumped, restore, final bytes over the link, two round trips."""
    phases = {p["name"]: p["seconds"] for p in run.report["phases"]}
    final = run.report["bytes"]["pages"] + run.report["bytes"]["images"]
    return float(run.report["frozen_s"] + phases["restore"] + final / bandwidth + 2 * rtt_s)


def least_total_s(run: Run, bandwidth: float) -> float:
    """The bound of one total time: memory and final delta over the link."""
    return float(sum(run.report["bytes"].values()) / bandwidth)


def run_case(bench: Bench, case: Case, tries: int) -> dict[str, Any]:
    """All ways in turns; medians."""
    for node in bench.nodes:
        bench.lab.tbf(node.name, RATES[case.rate])
    ways = ["plain", "tuned", "reberth"]
    if case.backend == "criu" and not bench.no_phaul:
        ways.append("phaul")
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    try:
        bandwidth, rtt_s = link(bench.lab, RATES[case.rate])
        for turn in range(tries):
            for way in ways if turn % 2 == 0 else ways[::-1]:
                runs[way].append(bench.measure(case, way))
                print(f"{case.name} {case.backend} {case.rate} {way}: gap {runs[way][-1].gap_s:.3f} s", file=sys.stderr)
    finally:
        for node in bench.nodes:
            bench.lab.tbf(node.name, None)
    ours = runs["reberth"]
    row: dict[str, Any] = {"case": asdict(case), "bandwidth_bytes_s": bandwidth, "round_trip_s": rtt_s, "ways": {}}
    for way, found in runs.items():
        middle = {k: statistics.median(getattr(r, k) for r in found) for k in ("gap_s", "total_s", "wire_bytes")}
        row["ways"][way] = {**middle, "gaps_s": [round(r.gap_s, 4) for r in found]}
    row["bound_s"] = statistics.median(bound_s(run, bandwidth, rtt_s) for run in ours)
    row["downtime_s"] = statistics.median(run.report["downtime_s"] for run in ours)
    row["least_total_s"] = statistics.median(least_total_s(run, bandwidth) for run in ours)
    row["frozen_s"] = statistics.median(run.report["frozen_s"] for run in ours)
    row["peak_bytes"] = max(run.peak_bytes for run in ours)
    names = dict.fromkeys(p["name"] for run in ours for p in run.report["phases"])
    row["phases_s"] = {
        name: round(
            statistics.median(p["seconds"] for run in ours for p in run.report["phases"] if p["name"] == name), 4
        )
        for name in names
    }
    return row


def main() -> None:
    """Run all cases, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the unlimited link only")
    parser.add_argument("--case", default="", help="only rows whose words contain this, such as 'criu unlimited'")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--kind", help="of the lab; vm, emulated, has soft-dirty: ratios of totals and bytes count")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args()
    lab = Lab(os.environ.get("REBERTH_LAB_NAME") or "bench", say=lambda _: None)
    lab.up(2, kind=chosen.kind)
    state = lab.site.state / "bench-state"
    state.mkdir(exist_ok=True)
    try:
        bench = Bench(lab, state)
        wanted = [c for c in cases(chosen.quick) if chosen.case in f"{c.name} {c.backend} {c.rate}"]
        rows = [run_case(bench, case, chosen.tries) for case in wanted]
        help_s = bench.help_s()
    finally:
        lab.down()
    machine = {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
        "tries": chosen.tries,
        "load": round(os.getloadavg()[2], 1),
        "help_s": round(help_s, 3),
    }
    text = markdown(rows, machine)
    print(text)
    if chosen.json:
        chosen.json.write_text(json.dumps({"schema": 1, "machine": machine, "rows": rows}, indent=1) + "\n")
    if chosen.markdown:
        chosen.markdown.write_text(text)


if __name__ == "__main__":
    main()
