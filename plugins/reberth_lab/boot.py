"""Starts one node and waits until it can be used."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from reberth_lab import cgroups
from reberth_lab.node_namespace import NamespaceNode
from reberth_lab.proc import LabError, run

GUEST = Path(__file__).with_name("guest")
MOST_BYTES = 6 << 30
START_LIMIT_S = 30
READY = "run/lab-ready"


def layer_bytes(nodes: int) -> int:
    """Return how large a node's writable layer may grow: a tmpfs, so at most its share of 60 % of the memory."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemTotal:"):
            return min(MOST_BYTES, int(line.split()[1]) * 1024 * 6 // 10 // max(nodes, 1))
    return MOST_BYTES


def start(
    node: NamespaceNode,
    root: Path,
    size_bytes: int,
    init: Mapping[str, object] | None = None,
    layers: Sequence[Path] = (),
) -> None:
    """Starts the node's init (which waits for `release`) on `root` under `layers`, the topmost first.

    `init` replaces the program for pid 1 by other words of the launcher (`command`, `uid`). Raises LabError with the
    launcher's reason.
    """
    mount = node.site.state / "mnt" / node.name
    mount.mkdir(mode=0o700, parents=True, exist_ok=True)
    cgroups.remove(node.cgroup)  # what a killed start or a crashed node left
    node.cgroup.mkdir(parents=True)
    arguments = {
        "name": node.name,
        "root": ":".join(map(str, (*layers, root))),
        "mount": str(mount),
        "cgroup": str(node.cgroup),
        "size_bytes": size_bytes,
        **(init or {"init": (GUEST / "init.py").read_text(encoding="utf-8")}),
    }
    launcher = [sys.executable, "-I", "-S", str(GUEST / "launch.py"), json.dumps(arguments)]
    # If `up` is killed before the launcher has entered the cgroup, nobody else would find it: so it dies with `up`.
    # (Its child, the init, does not inherit that; it is in the cgroup from its first moment.)
    done = run(["setpriv", "--pdeathsig", "KILL", *launcher], check=False, timeout_s=START_LIMIT_S)
    if done.returncode != 0 or not node.alive:
        reason = done.stderr.strip() or "its init ended at once"
        raise LabError(f"{node.name} does not start:\n{reason}", "is this root on a Linux >= 5.15 with overlayfs?")


def release(node: NamespaceNode) -> None:
    """Lets the init go on to start sshd: keys and addresses are in place."""
    (node.root / READY).touch()


def wait_for_ssh(node: NamespaceNode) -> None:
    """Waits for sshd's greeting; raises LabError with sshd's log when it does not come."""
    deadline = time.monotonic() + START_LIMIT_S
    trouble = "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((node.address, 22), timeout=2) as connection:
                connection.settimeout(5)
                if connection.recv(4) == b"SSH-":
                    return
        except OSError as error:
            trouble = str(error)
        time.sleep(0.05)
    log = node.run(["tail", "-n", "5", "/var/log/lab-init.log"], check=False).stdout.strip()
    raise LabError(
        f"sshd of {node.name} at {node.address} does not answer ({trouble}); its log: {log or 'empty'}",
        "a packet filter of this machine may drop what crosses bridges (net.bridge.bridge-nf-call-iptables)",
    )
