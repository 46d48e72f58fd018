"""A node that loses its power and comes back: every process is gone, what was on its disk is there, and it knows."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from reberth_lab.lab import Lab
from reberth_lab.node import Node

KEPT = ("var/lib/reberth", "var/lib/workloads", "var/lib/bundles", "opt/workloads")
NEW_BOOT = """
cat /proc/sys/kernel/random/uuid > /run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
"""
FORGET = "umount /proc/sys/kernel/random/boot_id; rm -f /run/boot_id"


def keep(source: str, place: Path, *descriptors: int) -> None:
    """Copy a folder as a disk keeps it: with named pipes, which Python's own copy refuses."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--", source, str(place)], check=True, pass_fds=descriptors)


def crash(lab: Lab, node: Node, place: Path) -> Callable[[], None]:
    """Kill the node at once; returns what starts it again.

    The lab's nodes have their disk in memory: what a real disk would keep is saved from it, through descriptors that
    outlive the node. The one kernel's boot id would not change, so the node gets one of its own.
    """
    held = {}
    for name in KEPT:
        path = node.root / name
        if path.is_dir():
            held[name] = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    lab.crash(node.name)
    for name, descriptor in held.items():
        keep(f"/proc/self/fd/{descriptor}/.", place / name, descriptor)
        os.close(descriptor)

    def again() -> None:
        lab.up(2)
        for name in held:
            keep(f"{place / name}/.", node.root / name)
        node.run(["sh", "-ec", NEW_BOOT])

    return again


def forget(node: Node) -> None:
    """Take the node's own boot id away again."""
    node.run(["sh", "-c", FORGET], check=False)
