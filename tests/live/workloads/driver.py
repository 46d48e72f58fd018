"""Test side of the workloads: start, verify, plant and stop them on a lab node, raw or in a runc container.

A node is anything with ``run(argv, check=…, timeout_s=…)``, ``put(folder, path)`` and ``exists(path)``. The folder of
the workloads is copied into each node once; all the rest is asked through ``node.run``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Optional, Protocol

HERE = Path(__file__).resolve().parent
INSTALLED = "/opt/workloads"
STAMP = ".stamp"
STATES = "/var/lib/workloads"
BUNDLES = "/var/lib/bundles"
PYTHON = ("/usr/bin/python3", "-S", "-B", INSTALLED)
DOWNTIME_SHARE = 0.20
DOWNTIME_S = 0.020
START_LIMIT_S = 60.0


class Node(Protocol):
    """What the driver needs of a node."""

    def put(self, folder: Path, path: str) -> None:
        """Copy a folder from outside into the node."""

    def exists(self, path: str) -> bool:
        """Whether the node has a file or folder."""

    def run(self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60) -> CompletedProcess[str]:
        """Run a program in the node."""


@dataclass
class Handle:
    """A running workload, wherever it is now: the same handle is used after a move.

    ``pid`` is its pid inside the node (of a container: asked from runc each time); ``beats`` and ``serial`` are the
    last ones seen: a copy that has fewer was restored from something old.
    """

    kind: str
    directory: str
    pid: int = 0
    container: str = ""
    bundle: str = ""
    arguments: tuple[str, ...] = ()
    beats: int = 0
    serial: int = 0
    last: dict[str, Any] = field(default_factory=dict)


def install(node: Node) -> None:
    """Copy the workloads into a node unless this very version is there."""
    stamp = f"{STAMP}-{_digest()}"
    if node.exists(f"{INSTALLED}/{stamp}"):
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder, "workloads")
        shutil.copytree(HERE, fresh, ignore=shutil.ignore_patterns("__pycache__", ".*", "driver.py", "*.toml"))
        (fresh / stamp).touch()
        node.put(fresh, INSTALLED)


def _digest() -> str:
    hashed = hashlib.sha256()
    for path in sorted(HERE.glob("*.py")):
        hashed.update(path.name.encode() + path.read_bytes())
    return hashed.hexdigest()


def start(
    node: Node, kind: str, args: Sequence[str] = (), *, name: str = "", others: Sequence[Node] = (), uid: int = 0
) -> Handle:
    """Start a raw workload and wait until it is ready.

    ``others`` are the nodes that it may be moved to: its folder, and the files that it opens, are made there too.
    It runs as ``uid`` and the group of that number. Raises RuntimeError with the workload's own words.
    """
    someone = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"] if uid else []
    directory = f"{STATES}/{name or kind}"
    options = ["--dir", directory, *args]
    for one in (node, *others):
        install(one)
        one.run(["rm", "-rf", "--", directory])
        one.run([*PYTHON, kind, *options, "--prepare-only"], timeout_s=120)
        one.run(["chown", "-R", f"{uid}:{uid}", "--", directory])
    done = node.run([*someone, *PYTHON, kind, *options], check=False, timeout_s=120)
    if done.returncode:
        raise RuntimeError(f"{kind} did not start: {done.stderr.strip()}")
    return Handle(kind, directory, pid=int(done.stdout), arguments=tuple(args))


def bundle(
    node: Node,
    path: str,
    arguments: Sequence[str],
    *,
    mounted: bool = False,
    host_pid: bool = False,
    host_net: bool = False,
) -> None:
    """Write a bundle that runs ``arguments`` (kind and options, without --dir); an old one at the path is removed."""
    install(node)
    node.run(["rm", "-rf", "--", path])
    chosen = {"--mounted": mounted, "--host-pid": host_pid, "--host-net": host_net}
    flags = [flag for flag, wanted in chosen.items() if wanted]
    node.run([*PYTHON, "bundle", *flags, path, "--", *arguments], timeout_s=120)


def start_container(node: Node, name: str, arguments: Sequence[str], *, path: str = "", **variant: bool) -> Handle:
    """Write a bundle, start it with ``runc run -d`` and wait until the workload in it is ready.

    ``variant``: as for ``bundle``. Raises RuntimeError with the first words of what failed.
    """
    path = path or f"{BUNDLES}/{name}"
    bundle(node, path, arguments, **variant)
    # The streams lead to a file until the workload closes them, first of all: what fails before that can be read.
    node.run(["sh", "-c", 'exec runc run -d --bundle "$1" "$2" </dev/null >"$1/log" 2>&1', "sh", path, name])
    handle = Handle(arguments[0], f"{path}/rootfs/state", container=name, bundle=path, arguments=tuple(arguments[1:]))
    end_s = time.monotonic() + START_LIMIT_S
    while not node.exists(f"{handle.directory}/ready"):
        if time.monotonic() > end_s or not container_pid(node, name):
            words = node.run(["cat", f"{path}/log", f"{handle.directory}/error"], check=False).stdout
            node.run(["runc", "delete", "--force", name], check=False)
            raise RuntimeError(f"{name} did not start: {words.strip()}")
        time.sleep(0.05)
    return handle


def container_pid(node: Node, name: str) -> int:
    """Pid of the container's first process inside the node; 0 if runc does not know it or it has ended."""
    done = node.run(["runc", "state", name], check=False)
    return int(json.loads(done.stdout)["pid"]) if done.returncode == 0 else 0


def verify(node: Node, handle: Handle) -> dict[str, Any]:
    """Ask the workload on this node whether all is well: ``{"ok", "problems", "beats", "gaps", "pid", "checks"}``.

    A workload that is not there, does not answer or went back in time answers ``ok`` False.
    """
    pid = _pid(node, handle)
    if not pid:
        return {"ok": False, "problems": [f"{handle.container or handle.kind} is not there"], "beats": 0, "gaps": []}
    done = node.run([*PYTHON, "ask", "verify", "--pid", str(pid), "--dir", handle.directory], check=False, timeout_s=90)
    if not done.stdout:
        return {"ok": False, "problems": [f"no answer: {done.stderr[-300:]}"], "beats": 0, "gaps": []}
    result: dict[str, Any] = json.loads(done.stdout)
    serial = result.get("serial", 0)
    if result["beats"] < handle.beats or serial <= handle.serial:
        result["ok"] = False
        result["problems"].append(f"went back in time: {result['beats']} beats after {handle.beats}")
    handle.beats, handle.serial, handle.last = result["beats"], serial, result
    return result


def plant(node: Node, handle: Handle, kind: str) -> None:
    """Damage one thing of the workload behind its back; raises CalledProcessError if that was not possible."""
    pid = str(_pid(node, handle))
    node.run([*PYTHON, "ask", "plant", "--what", kind, "--pid", pid, "--dir", handle.directory], timeout_s=90)


def forget_gaps(node: Node, handle: Handle) -> None:
    """Start a new record of silences, right before a move whose downtime will be compared."""
    plant(node, handle, "forget-gaps")


def stop(node: Node, handle: Handle) -> None:
    """End the workload and its children, and the container if it runs in one; nothing to do is fine."""
    pid = _pid(node, handle)
    if pid:
        node.run([*PYTHON, "ask", "stop", "--pid", str(pid), "--dir", handle.directory], check=False)
    if handle.container:
        node.run(["runc", "delete", "--force", handle.container], check=False)


def longest_silence_s(result: dict[str, Any]) -> float:
    """The downtime that the workload itself has measured, in seconds."""
    return max((float(gap["seconds"]) for gap in result["gaps"]), default=0.0)


def downtime_agrees(reported_s: float, result: dict[str, Any]) -> bool:
    """Whether a report agrees with the workload's own measure within 20 % or 20 ms, whichever is more."""
    measured_s = longest_silence_s(result)
    return abs(reported_s - measured_s) <= max(DOWNTIME_S, DOWNTIME_SHARE * measured_s)


def _pid(node: Node, handle: Handle) -> int:
    return container_pid(node, handle.container) if handle.container else handle.pid


def find_problem(result: dict[str, Any], word: str) -> Optional[str]:
    """The first problem that contains a word."""
    return next((problem for problem in result["problems"] if word in problem), None)
