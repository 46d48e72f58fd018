"""A node made of namespaces: its processes are processes of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from reberth_lab import cgroups
from reberth_lab.node import Node, settings
from reberth_lab.site import Site

# Enters the cgroups before the namespaces: seen from inside, a process outside the node's cgroup is at "/../..", and
# CRIU walks such a path, which may vanish under it. The same holds for each hierarchy of version 1 beside it.
ENTER = 'while [ "$1" != -- ]; do echo 0 >"$1" || exit; shift; done; shift; exec "$@"'


class NamespaceNode(Node):
    """Reached by nsenter, its files through /proc."""

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site, name)
        self._init: tuple[int, int] | None = None  # pid and start time

    def find_pid(self) -> int | None:
        """Pid of the node's init, or None; a remembered pid counts only together with its start time."""
        if self._init and cgroups.start_ticks(self._init[0]) == self._init[1]:
            return self._init[0]
        found = cgroups.init_pid(self.cgroup)
        ticks = cgroups.start_ticks(found) if found else None
        self._init = (found, ticks) if found and ticks is not None else None
        return found if self._init else None

    @property
    def root(self) -> Path:
        """Return the node's root directory as the outer machine reaches it (beware of absolute links in there)."""
        return Path(f"/proc/{self.pid}/root")

    def enter(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
        """Return the argument list that runs `argv` in all namespaces and the cgroup of the node."""
        return [
            *("sh", "-c", ENTER, "sh", str(self.cgroup / "init/cgroup.procs"), *cgroups.beside(self.pid), "--"),
            *("nsenter", "-t", str(self.pid), "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w", "--"),
            # nsenter waits for its child outside; when it is killed for a time-out, the child must not live on.
            *("env", "-i", *settings(env), "setpriv", "--pdeathsig", "KILL", *argv),
        ]

    def put(self, folder: Path, path: str) -> None:
        """Copies a folder of the outer machine to `path` in the node, which it replaces."""
        target = self.root / path.lstrip("/")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target, symlinks=True)

    def exists(self, path: str) -> bool:
        """Tell whether the node has a file or folder `path`."""
        return (self.root / path.lstrip("/")).exists()

    def outer_pid(self, inner_pid: int) -> int | None:
        """Return the pid on the outer machine of the node's process `inner_pid`."""
        own_depth = len(cgroups.namespace_pids("self"))
        for pid in cgroups.processes(self.cgroup):
            pids = cgroups.namespace_pids(str(pid))
            if len(pids) > own_depth and pids[own_depth] == inner_pid:
                return pid
        return None
