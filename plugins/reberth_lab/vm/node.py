"""A node with a kernel of its own: reached over ssh, on a cable and a lasting connection of the lab's own."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from reberth_lab import cgroups
from reberth_lab.locks import locked
from reberth_lab.node import Node, settings
from reberth_lab.proc import LabError, tool_environment

MACHINE, LINE = "machine", "line"  # the two cgroups of a node: QEMU, and the lab's ssh connection to it
IN_CGROUP = 'echo 0 >"$1" || exit; shift; exec "$@"'
BEHIND = 'log=$1; shift; setsid "$@" </dev/null >"$log" 2>&1 &'
LINE_LIMIT_S = 180  # a login of an emulated node, others at work on the machine
GRACE_S = 20.0  # how long ssh may take to tell that a program was ended for its time limit
KILLED = (137, 255)  # timeout(1) kills itself with its child, which ssh reports as 255, as it does its own troubles
REPLACE = 'rm -rf -- "$1" && mkdir -p -- "$1" && exec tar -x -C "$1"'


def in_cgroup(directory: Path, argv: Sequence[str]) -> list[str]:
    """Return the argument list that runs `argv` in a cgroup (which is made) and does not outlive a killed `up`.

    What goes to the background by forking stays: it does not inherit the parent's-death signal, but the cgroup.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return ["setpriv", "--pdeathsig", "KILL", "sh", "-c", IN_CGROUP, "sh", str(directory / "cgroup.procs"), *argv]


class VmNode(Node):
    """Programs of tests reach it whatever happens to its link: the cable for that is another one."""

    def find_pid(self) -> int | None:
        """Pid of the node's QEMU, or None."""
        return next(iter(cgroups.processes(self.cgroup / MACHINE)), None)

    @property
    def socket_path(self) -> Path:
        """Return where the lasting connection takes requests."""
        return self.site.state / f"{self.name}.line"

    def enter(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
        """Return the argument list that runs `argv` as root in the node, over the lasting connection."""
        self.connect()
        command = shlex.join(["exec", "env", "-i", *settings(env), *argv])  # quoted for the node's login shell
        return ["ssh", *self._line_options(), "--", self.site.control_address(self.number), command]

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
        # The end of ssh would not end the program: the node's own timeout(1) does, and ssh reports it.
        limited = ["timeout", "-s", "KILL", f"{timeout_s:g}", *argv]
        started = time.monotonic()
        done = subprocess.run(
            self.enter(limited, env),
            check=False,
            input=input or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s + GRACE_S,
            env=tool_environment(),
        )
        if done.returncode in KILLED and time.monotonic() - started >= timeout_s:
            raise subprocess.TimeoutExpired(list(argv), timeout_s, done.stdout, done.stderr)
        if check:
            done.check_returncode()
        return done

    def put(self, folder: Path, path: str) -> None:
        """Copies a folder of the outer machine to `path` in the node, which it replaces; all belongs to root there."""
        with tempfile.TemporaryFile() as stream:
            pack(stream, folder)
            self.feed(["sh", "-c", REPLACE, "sh", path], stream)

    def feed(self, argv: Sequence[str], stream: IO[bytes]) -> None:
        """Runs `argv` inside with a file of the outer machine as its standard input; raises LabError."""
        stream.seek(0)
        done = subprocess.run(self.enter(argv), check=False, stdin=stream, capture_output=True, env=tool_environment())
        if done.returncode != 0:
            raise LabError(f"{argv[0]} failed in {self.name}: {done.stderr.decode(errors='replace').strip()[-400:]}")

    def exists(self, path: str) -> bool:
        """Tell whether the node has a file or folder `path`."""
        return self.run(["test", "-e", path], check=False).returncode == 0

    def connect(self) -> None:
        """Makes sure that the lasting connection is there; raises LabError when the node does not answer."""
        if self._connected():
            return
        _ = self.pid  # says that the node is down before ssh does so less clearly
        with locked(self.site.state / f"{self.name}.lock", wait_s=LINE_LIMIT_S):
            if self._connected():
                return
            self.socket_path.unlink(missing_ok=True)
            options = [*self._line_options(), "-o", "ServerAliveInterval=15"]
            # -f goes to the background after the login, and keeps its standard error: a file, for nobody reads a pipe.
            log = self.site.state / f"{self.name}.line.log"
            argv = ["ssh", "-M", "-N", "-f", "-E", str(log), *options]
            address = self.site.control_address(self.number)
            words = in_cgroup(self.cgroup / LINE, [*argv, "--", address])
            with log.open("wb") as errors:
                done = subprocess.run(
                    words,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    timeout=LINE_LIMIT_S,
                    env=tool_environment(),
                )
        if done.returncode != 0:
            tail = log.read_text(encoding="utf-8", errors="replace").strip()[-400:]
            raise LabError(f"{self.name} does not answer at {address}: {tail}", "reberth lab status")

    def _connected(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.socket_path))
            return True
        return False

    def _line_options(self) -> list[str]:
        pinned = self.ssh_options(self.site.state / "known_hosts")
        return [*pinned, "-T", "-o", f"HostKeyAlias={self.name}", "-o", f"ControlPath={self.socket_path}"]


def pack(stream: IO[bytes], folder: Path) -> None:
    """Writes what is in `folder` to `stream` as a tar archive in which everything belongs to root."""
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=_of_root)


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
