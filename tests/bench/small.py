"""The benchmark's workload (small.c): compiled here, put into the nodes, started there, asked how it fared."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from reberth_lab.node import Node

SOURCE = Path(__file__).with_suffix(".c")
PROGRAM = "/opt/bench/small"
STATES = "/var/lib/bench"
WAIT_S = 30.0


@dataclass
class Small:
    """One running workload, wherever it is now."""

    pid: int
    directory: str
    container: str = ""
    bundle: str = ""


def install(nodes: list[Node], place: Path) -> None:
    """Compile it, static, so that it needs no file but itself, and put it into each node."""
    built = place / "small"
    built.mkdir(exist_ok=True)
    subprocess.run(["gcc", "-O2", "-static", "-o", str(built / "small"), str(SOURCE)], check=True)
    for node in nodes:
        node.put(built, str(Path(PROGRAM).parent))


def start(node: Node, others: list[Node], name: str, words: list[str]) -> Small:
    """A bare process; its directory is made on the other nodes too."""
    directory = f"{STATES}/{name}"
    for one in (node, *others):
        one.run(["mkdir", "-p", directory])
    pid = node.spawn([PROGRAM, directory, *words])
    found = Small(pid, directory)
    _wait(node, found)
    return found


def start_container(node: Node, name: str, words: list[str]) -> Small:
    """The same in a container of `runc spec`, with namespaces of its own."""
    bundle = f"/var/lib/bundles/{name}"
    node.run(
        [
            "sh",
            "-c",
            'mkdir -p "$1/rootfs/state" && cp "$2" "$1/rootfs/" && cd "$1" && runc spec',
            "sh",
            bundle,
            PROGRAM,
        ]
    )
    config = json.loads(node.read(f"{bundle}/config.json"))
    config["process"].update(terminal=False, args=["/small", "/state", *words])
    config["root"]["readonly"] = False
    node.write(f"{bundle}/config.json", json.dumps(config))
    node.run(["sh", "-c", 'exec runc run -d --bundle "$1" "$2" </dev/null >/dev/null 2>&1', "sh", bundle, name])
    found = Small(container_pid(node, name), f"{bundle}/rootfs/state", name, bundle)
    _wait(node, found)
    return found


def container_pid(node: Node, name: str) -> int:
    """Pid of the container's first process; 0 where there is none."""
    done = node.run(["runc", "state", name], check=False)
    return int(json.loads(done.stdout)["pid"]) if done.returncode == 0 else 0


def _wait(node: Node, workload: Small) -> None:
    end_s = time.monotonic() + WAIT_S
    while not node.exists(f"{workload.directory}/result"):
        if time.monotonic() > end_s:
            raise RuntimeError(f"no answer in {workload.directory}")
        time.sleep(0.02)


def forget(node: Node, workload: Small) -> None:
    """Begin a new record of silences."""
    node.run(["kill", "-USR2", str(workload.pid)])


def gap_s(node: Node, workload: Small) -> float:
    """Its longest silence; RuntimeError when a page or a connection is not as it must be."""
    if workload.container:
        workload.pid = container_pid(node, workload.container)
    node.run(["rm", "-f", f"{workload.directory}/result"])
    node.run(["kill", "-USR1", str(workload.pid)])
    _wait(node, workload)
    found = json.loads(node.read(f"{workload.directory}/result"))
    if found["wrong_pages"] or found["broken"]:
        raise RuntimeError(f"the workload is damaged: {found}")
    return float(found["gap_s"])


def stop(node: Node, workload: Small) -> None:
    """End it on this node, if it is there, and remove what it needed."""
    if workload.container:
        node.run(["runc", "delete", "--force", workload.container], check=False)
    else:
        script = '[ "$(readlink /proc/$1/exe)" != "$2" ] || kill -9 "$1"'
        node.run(["sh", "-c", script, "sh", str(workload.pid), PROGRAM], check=False)
    node.run(["rm", "-rf", "--", workload.bundle or workload.directory])
