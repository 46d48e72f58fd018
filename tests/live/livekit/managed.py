"""A lab whose first node is run by a real systemd, as a service of a real machine is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest

from reberth_lab import boot
from reberth_lab.lab import Lab
from reberth_lab.node import Node
from reberth_lab.node_namespace import NamespaceNode

# Pid 1 until the outer machine has put keys and addresses in place; `init` is where the lab's own programs are put.
INIT = """
import os, time
for path in ("/run/sshd", "/sys/fs/cgroup/init"):
    os.makedirs(path, exist_ok=True)
while not os.path.exists("/run/lab-ready"):
    time.sleep(0.02)
words = ["systemd", "--log-target=console", "--show-status=false", "systemd.mask=redis-server.service"]
os.execve("/usr/lib/systemd/systemd", words, {**os.environ, "container": "lxc"})
"""
START_LIMIT_S = 60


class ManagedLab(Lab):
    """Its nodes end and begin as those of any lab; `node1` has the other init."""

    def up_managed(self) -> None:
        """Start both; skips the test where systemd does not come up in namespaces."""
        first = boot.start

        def start(node: NamespaceNode, root: Path, size_bytes: int, layers: Sequence[Path] = ()) -> None:
            first(node, root, size_bytes, {"init": INIT} if node.name == "node1" else None, layers)

        with mock.patch.object(boot, "start", start):
            self.up(2)
        end_s = time.monotonic() + START_LIMIT_S
        said = ""
        while said not in ("running", "degraded"):
            if time.monotonic() > end_s:
                pytest.skip(f"systemd does not come up in a namespace here: {said}")
            said = self.node("node1").run(["systemctl", "is-system-running"], check=False).stdout.strip()
            time.sleep(0.1)


class Unit:
    """A unit of a node, a service unless it is said."""

    def __init__(self, node: Node, name: str, kind: str = "service") -> None:
        self.node, self.name = node, f"{name}.{kind}"
        self.path = f"/etc/systemd/system/{self.name}"

    def write(self, *lines: str) -> None:
        """Its file, and let systemd read it."""
        self.node.write(self.path, "\n".join([*lines, ""]))
        self.ctl("daemon-reload")

    def ctl(self, *words: str, check: bool = True) -> str:
        """One command of systemctl."""
        return self.node.run(["systemctl", *words], check=check).stdout.strip()

    def says(self, key: str) -> str:
        """One of its properties."""
        return self.ctl("show", f"--property={key}", "--value", "--", self.name)

    @property
    def pid(self) -> int:
        """Its main process, 0 when there is none."""
        return int(self.says("MainPID") or 0)

    def drop_ins(self) -> str:
        """What there is beside its file."""
        return self.node.run(["find", "/etc/systemd/system", "/run/systemd/system", "-name", "*reberth*"]).stdout

    def remove(self) -> None:
        """Its end."""
        self.ctl("kill", "--signal=KILL", "--kill-whom=all", self.name, check=False)
        self.ctl("stop", self.name, check=False)
        self.node.run(["rm", "-rf", "--", self.path, f"{self.path}.d"])
        self.ctl("daemon-reload")
        self.ctl("reset-failed", check=False)
