"""One node of a lab, as its tests see it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from reberth_lab import cgroups
from reberth_lab.proc import LabError, run, tool_environment
from reberth_lab.site import Site, node_number

INSIDE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
# Enters the cgroups before the namespaces: seen from inside, a process outside the node's cgroup is at "/../..", and
# CRIU walks such a path, which may vanish under it. The same holds for each hierarchy of version 1 beside it.
ENTER = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit; shift; done; shift; exec "$@"'
# Starts a program in a session of its own without a descriptor of the caller, so that criu can dump it.
DETACH = 'log=$1; shift; setsid "$@" </dev/null >"$log" 2>&1 & echo $!'


class Node:
    """A node by name; cheap to make, and it finds its processes anew each time."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.number = node_number(name)
        self._init: tuple[int, int] | None = None  # pid and start time

    def __repr__(self) -> str:
        return f"Node({self.name!r}, lab {self.site.name!r})"

    @property
    def address(self) -> str:
        """The node's address on the bridge."""
        return self.site.address(self.number)

    @property
    def cgroup(self) -> Path:
        """The directory on the outer machine that is the root of the node's cgroup tree."""
        return cgroups.mount_point() / self.site.cgroup_name / self.name

    @property
    def alive(self) -> bool:
        """Whether the node's pid 1 runs."""
        return self.find_pid() is not None

    @property
    def pid(self) -> int:
        """Pid of the node's init on the outer machine; raises LabError if the node is down."""
        found = self.find_pid()
        if found is None:
            raise LabError(f"{self.name} is not up", "reberth lab up")
        return found

    def find_pid(self) -> int | None:
        """The same, or None; a remembered pid counts only together with its start time."""
        if self._init and cgroups.start_ticks(self._init[0]) == self._init[1]:
            return self._init[0]
        found = cgroups.init_pid(self.cgroup)
        ticks = cgroups.start_ticks(found) if found else None
        self._init = (found, ticks) if found and ticks is not None else None
        return found if self._init else None

    @property
    def root(self) -> Path:
        """The node's root directory as the outer machine reaches it (beware of absolute links in there)."""
        return Path(f"/proc/{self.pid}/root")

    def enter(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
        """The argument list that runs `argv` in all namespaces and the cgroup of the node."""
        settings = [f"{key}={value}" for key, value in {**INSIDE, "TERM": "dumb", **(env or {})}.items()]
        return [
            *("sh", "-c", ENTER, "sh", str(self.cgroup / "init/cgroup.procs"), *cgroups.beside(self.pid), "--"),
            *("nsenter", "-t", str(self.pid), "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w", "--"),
            # nsenter waits for its child outside; when it is killed for a time-out, the child must not live on.
            *("env", "-i", *settings, "setpriv", "--pdeathsig", "KILL", *argv),
        ]

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

    def outer_pid(self, inner_pid: int) -> int | None:
        """The pid on the outer machine of the node's process `inner_pid`."""
        own_depth = len(cgroups.namespace_pids("self"))
        for pid in cgroups.processes(self.cgroup):
            pids = cgroups.namespace_pids(str(pid))
            if len(pids) > own_depth and pids[own_depth] == inner_pid:
                return pid
        return None

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
        """The ssh command that reaches this node from the outer machine."""
        options = {
            "IdentityFile": str(self.site.state / "id_ed25519"),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.site.state / "known_hosts"),
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
        }
        flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-F", os.devnull, *flags, "-l", "root", "--", self.address, *argv]

    def ssh(self, argv: Sequence[str], *, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Runs a remote command line over ssh (the words are joined by the remote shell, as ssh does)."""
        return run(self.ssh_argv(argv), timeout_s=timeout_s)
