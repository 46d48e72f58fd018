"""One node of a lab, of whatever kind, as its tests see it."""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from reberth_lab import cgroups
from reberth_lab.proc import LabError, run, tool_environment
from reberth_lab.site import Site, node_number

INSIDE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
# Starts a program in a session of its own without a descriptor of the caller, so that criu can dump it.
DETACH = 'log=$1; shift; setsid "$@" </dev/null >"$log" 2>&1 & echo $!'


def settings(env: Mapping[str, str] | None) -> list[str]:
    """Return the environment of a program inside, as words of env(1)."""
    return [f"{key}={value}" for key, value in {**INSIDE, "TERM": "dumb", **(env or {})}.items()]


class Node(ABC):
    """A node by name; cheap to make, and it finds its processes anew each time."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.number = node_number(name)

    def __repr__(self) -> str:
        return f"Node({self.name!r}, lab {self.site.name!r})"

    @property
    def address(self) -> str:
        """Return the node's address on the bridge."""
        return self.site.address(self.number)

    @property
    def cgroup(self) -> Path:
        """Return the directory on the outer machine's cgroup2 mount below which all processes of the node are."""
        return cgroups.mount_point() / self.site.cgroup_name / self.name

    @property
    def alive(self) -> bool:
        """Tell whether the node's first process runs."""
        return self.find_pid() is not None

    @property
    def pid(self) -> int:
        """Pid on the outer machine of the node's init or emulator; raises LabError if the node is down."""
        found = self.find_pid()
        if found is None:
            raise LabError(f"{self.name} is not up", "reberth lab up")
        return found

    @abstractmethod
    def find_pid(self) -> int | None:
        """Return the same, or None."""

    @abstractmethod
    def enter(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
        """Return the argument list that runs `argv` as root in the node."""

    @abstractmethod
    def put(self, folder: Path, path: str) -> None:
        """Copies a folder of the outer machine to `path` in the node, which it replaces."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Tell whether the node has a file or folder `path`."""

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout_s: float = 60,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `argv` inside to its end; raises CalledProcessError (if `check`) or TimeoutExpired."""
        # Standard input is a pipe even when empty: /dev/null of the outer machine would be a descriptor that leads
        # out of the node's mount namespace, and criu cannot dump a process that inherits one.
        return subprocess.run(
            self.enter(argv, env),
            check=check,
            input=input or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=tool_environment(),
        )

    def spawn(self, argv: Sequence[str], *, log: str = "/dev/null", env: Mapping[str, str] | None = None) -> int:
        """Starts `argv` inside in the background, in a session of its own; returns its pid inside the node.

        Its output goes to the node's file `log`. When it ends, the node's init collects it.
        """
        return int(self.run(["sh", "-c", DETACH, "sh", log, *argv], env=env).stdout)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file in the node (by a program of the node, so that links mean what they mean there)."""
        self.run(
            ["sh", "-c", 'umask 077; mkdir -p "${1%/*}" && cat >"$1" && chmod "$2" "$1"', "sh", path, f"{mode:o}"],
            input=text,
        )

    def read(self, path: str) -> str:
        """Reads a file of the node."""
        return self.run(["cat", "--", path]).stdout

    def ssh_argv(self, argv: Sequence[str] = ()) -> list[str]:
        """Return the ssh command that reaches this node from the outer machine."""
        return ["ssh", *self.ssh_options(self.site.state / "known_hosts"), "--", self.address, *argv]

    def ssh_options(self, known_hosts: Path) -> list[str]:
        """Options of ssh: the lab's key, the pinned host keys, nothing of the user's own configuration."""
        options = {
            "IdentityFile": str(self.site.state / "id_ed25519"),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(known_hosts),
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
        }
        flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["-F", os.devnull, *flags, "-l", "root"]

    def ssh(self, argv: Sequence[str], *, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Runs a remote command line over ssh (the words are joined by the remote shell, as ssh does)."""
        return run(self.ssh_argv(argv), timeout_s=timeout_s)
