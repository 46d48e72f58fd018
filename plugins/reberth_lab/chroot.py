"""Runs the builder's programs so that nothing of them outlives a killed build: no process, no mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reberth_lab.proc import LabError, run, tool_environment

STEP_LIMIT_S = 1200
PROXIES = ("http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Chroot:
    """A root filesystem under construction and the log of what was run for it."""

    root: Path
    log: Path

    def outside(self, argv: Sequence[str]) -> str:
        """Runs a program of this machine in mount and pid namespaces of its own."""
        return self._run([*_caged(), *argv])

    def inside(self, argv: Sequence[str]) -> str:
        """Runs a program of the new root filesystem, in it; returns its standard output."""
        return self._run([*_caged(), f"--root={self.root}", "--mount-proc", *argv])

    def _run(self, argv: Sequence[str]) -> str:
        env = tool_environment({"DEBIAN_FRONTEND": "noninteractive", "HOME": "/root", **_proxies()})
        with self.log.open("a", encoding="utf-8", errors="replace") as log:
            log.write(f"\n+ {' '.join(argv)}\n")
            log.flush()
            try:
                done = subprocess.run(
                    argv,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    errors="replace",
                    timeout=STEP_LIMIT_S,
                    env=env,
                )
            except subprocess.TimeoutExpired as error:
                raise LabError(f"{argv[-1]} did not end within {STEP_LIMIT_S} s") from error
            log.write(done.stdout)
        if done.returncode != 0:
            tail = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
            raise LabError("making the root filesystem failed:\n  " + "\n  ".join(tail), "is the mirror reachable?")
        return done.stdout


def _caged() -> list[str]:
    """Kernel-enforced clean-up: the death of our process kills unshare, and that kills all of its pid namespace."""
    return ["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "-p", "-f", "--kill-child"]


def _proxies() -> dict[str, str]:
    """Return the proxy that this machine's apt uses, else the one of the environment, for debootstrap and the
    inner apt.
    """
    found = {name: os.environ[name] for name in PROXIES if name in os.environ}
    for scheme in ("http", "https"):
        asked = run(["apt-config", "shell", "P", f"Acquire::{scheme}::Proxy"], check=False).stdout.strip()
        if asked.startswith("P='") and not asked.startswith("P='DIRECT"):
            found[f"{scheme}_proxy"] = asked[3:-1]
    return found
