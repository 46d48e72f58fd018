"""The tree that forks and frees memory all the time (workloads/churn.c), on a node or in a container, with its word."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.driver import container_pid

from reberth_lab.node import Node

SOURCE = Path(__file__).resolve().parents[1] / "workloads" / "churn.c"
PROGRAM = "/opt/churn/churn"
STATES, BUNDLES = "/var/lib/churn", "/var/lib/bundles"
WAIT_S = 60.0
PAUSE_US = 2000  # of two processes; more of them pause longer, so that the machine has the same to do


@dataclass
class Churn:
    """One such tree, wherever it is now."""

    name: str
    pid: int
    directory: str
    bundle: str = ""
    turns: int = 0

    def word(self, node: Node) -> str:
        """The workload as a user names it."""
        return f"{node.name}:runc/{self.name}" if self.bundle else f"{node.name}:criu/{self.pid}"

    def verdict(self, node: Node) -> dict[str, Any]:
        """Each process compares all its pages; returns what it told, empty when one does not answer."""
        pid = container_pid(node, self.name) if self.bundle else self.pid
        node.run(["rm", "-f", f"{self.directory}/result"])
        node.run(["kill", "-USR1", str(pid)])
        found = _result(node, self.directory)
        if found:
            found["on"] = found["turns"] - self.turns  # since it was last asked
            self.turns = found["turns"]
        return found

    def stop(self, nodes: tuple[Node, ...]) -> None:
        """End it on all nodes, with its files."""
        for node in nodes:
            if self.bundle:
                node.run(["runc", "delete", "--force", self.name], check=False)
            else:
                script = '[ "$(readlink "/proc/$1/exe")" != "$2" ] || kill -9 "$1"'
                node.run(["sh", "-c", script, "sh", str(self.pid), PROGRAM], check=False)
            node.run(["rm", "-rf", "--", self.bundle or self.directory])


def install(nodes: tuple[Node, ...], place: Path) -> None:
    """Compile it, static, so that it needs no file but itself, and put it into each node."""
    built = place / "churn"
    built.mkdir(exist_ok=True)
    subprocess.run(["gcc", "-O2", "-static", "-o", str(built / "churn"), str(SOURCE)], check=True, timeout=120)
    for node in nodes:
        node.put(built, str(Path(PROGRAM).parent))


def start(backend: str, nodes: tuple[Node, ...], name: str, processes: int, mib: int) -> Churn:
    """Start it on the first node; its place is made on the others too."""
    words = [str(processes), str(mib), str(PAUSE_US * processes // 2)]
    one = _container(nodes[0], name, words) if backend == "runc" else _bare(nodes, name, words)
    found = _result(nodes[0], one.directory)
    if not found or found["wrong"]:
        raise RuntimeError(f"{name} did not start well: {found}")
    one.turns = found["turns"]
    return one


def _bare(nodes: tuple[Node, ...], name: str, words: list[str]) -> Churn:
    directory = f"{STATES}/{name}"
    for node in nodes:
        node.run(["mkdir", "-p", directory])
    return Churn(name, nodes[0].spawn([PROGRAM, directory, *words]), directory)


def _container(node: Node, name: str, words: list[str]) -> Churn:
    bundle = f"{BUNDLES}/{name}"
    make = 'mkdir -p "$1/rootfs/state" && cp "$2" "$1/rootfs/" && cd "$1" && runc spec'
    node.run(["sh", "-c", make, "sh", bundle, PROGRAM])
    config = json.loads(node.read(f"{bundle}/config.json"))
    config["process"].update(terminal=False, args=["/churn", "/state", *words])
    config["root"]["readonly"] = False
    node.write(f"{bundle}/config.json", json.dumps(config))
    node.run(["sh", "-c", 'exec runc run -d --bundle "$1" "$2" </dev/null >/dev/null 2>&1', "sh", bundle, name])
    return Churn(name, 0, f"{bundle}/rootfs/state", bundle)


def _result(node: Node, directory: str) -> dict[str, Any]:
    end_s = time.monotonic() + WAIT_S
    while not node.exists(f"{directory}/result"):
        if time.monotonic() > end_s:
            return {}
        time.sleep(0.02)
    found: dict[str, Any] = json.loads(node.read(f"{directory}/result"))
    return found
