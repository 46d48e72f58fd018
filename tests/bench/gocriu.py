"""go-criu's phaul as a peer: its driver (phaul/main.go) is built from Debian's packages, and moves one bare process.

phaul asks for a kernel that tracks written pages, for its rounds. Its pages go straight from node to node, unprotected.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from small import Small

from reberth_lab.node import Node

SOURCE = Path(__file__).parent / "phaul/main.go"
PROGRAM = "/opt/phaul/phaul"
PLACE = "/dev/shm/phaul"
PART = "src/github.com/checkpoint-restore/go-criu/v7/phaul/client.go"
PACKAGES = "golang-go, golang-golang-x-sys-dev, golang-github-checkpoint-restore-go-criu-dev of Debian 13"
BUILD_S, MOVE_S = 900, 300


def build(place: Path) -> str:
    """Builds the driver in `place`; the reason why there is none, or nothing."""
    sources = Path(os.environ.get("REBERTH_GOCODE") or "/usr/share/gocode")
    if not shutil.which("go") or not (sources / PART).exists():
        return f"not installed: {PACKAGES}"
    place.mkdir(exist_ok=True)
    # Debian's Go packages are trees of sources, without a proxy or a list of versions.
    env = {**os.environ, "GO111MODULE": "off", "CGO_ENABLED": "0", "GOPATH": str(sources), "GOFLAGS": ""}
    argv = ["go", "build", "-o", str(place / "phaul"), str(SOURCE)]
    env["GOCACHE"] = str(place.with_name("go-cache"))
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=BUILD_S)
    return f"go build: {done.stderr.strip()[-400:]}" if done.returncode else ""


def install(nodes: list[Node], place: Path) -> str:
    """Builds it and puts it into the nodes; the reason why it cannot be measured, or nothing."""
    if nodes[0].run(["criu", "check", "--feature", "mem_dirty_track"], check=False).returncode:
        return "its rounds need a kernel that tracks written pages (soft-dirty)"
    reason = build(place)
    if not reason:
        for node in nodes:
            node.put(place, str(Path(PROGRAM).parent))
    return reason


def prepare(node1: Node, node2: Node, handle: Small) -> None:
    """Its server on the target, which listens already."""
    for node in (node1, node2):
        node.run(["sh", "-c", 'rm -rf "$1" && mkdir -p "$1"', "sh", PLACE])
    node2.spawn([PROGRAM, "serve", PLACE], log=f"{PLACE}/port")
    for _ in range(50):
        if node2.read(f"{PLACE}/port").strip():
            return
        node2.run(["sleep", "0.1"])
    raise RuntimeError("phaul does not say its port")


def move(node1: Node, node2: Node, handle: Small, tcp: bool) -> None:
    """Rounds, dump and restore; CalledProcessError with its words when it fails."""
    port = node2.read(f"{PLACE}/port").split()[0]
    argv = [PROGRAM, "move", str(handle.pid), f"{node2.address}:{port}", PLACE, *(["tcp"] if tcp else [])]
    node1.run(argv, timeout_s=MOVE_S)
