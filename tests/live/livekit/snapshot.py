"""What is on a node, as sets of words that can be compared: a move must leave each of them as it was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from reberth_lab.node import Node

Snapshot = Mapping[str, frozenset[str]]
PATIENCE_S = 20.0
OUTSIDE = "outer machine"

# Runs inside the node in one process. Not listed: what criu, runc, mount and a login keep for themselves (criu.kdat,
# runc, mount and motd.dynamic in /run), and what reberth keeps on purpose (journals of ended runs and of controllers,
# marks of bundles that were left).
PROGRAM = r"""
import json, os, subprocess, sys

KEPT = ("/run/reberth", "/run/runc", "/run/criu.kdat", "/run/mount", "/run/motd.dynamic")

def read(path):
    try:
        with open(path, errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""

def tool(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        return []

def below(top):
    return [os.path.join(at, name) for at, dirs, files in os.walk(top) for name in dirs + files]

def task(pid):
    words = read(f"/proc/{pid}/cmdline").replace("\0", " ").strip() or "[" + read(f"/proc/{pid}/comm").strip() + "]"
    return f"{pid} {words[:150]}"

def ourselves():  # this program and those that started it: a virtual node is asked over ssh
    pid, found = os.getpid(), set()
    while pid > 1:
        found.add(str(pid))
        pid = int(read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
    return found

def of_kernel(pid):  # workers of a virtual node's kernel come, go and change their names (PF_KTHREAD, linux/sched.h)
    words = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return bool(words) and bool(int(words[6]) & 0x00200000)

def processes():
    mine = ourselves()
    return [task(pid) for pid in os.listdir("/proc") if pid.isdigit() and pid not in mine and not of_kernel(pid)]

def sockets():
    return [" ".join(line.split()[:5]) for line in tool("ss", "-Hltn")] + tool("ss", "-Hlxn", "src", "@reberth*")

def state():
    top = "/var/lib/reberth"
    names = os.listdir(top) if os.path.isdir(top) else []
    return [name for name in names if name not in ("ended", "left-behind", "runs", ".lock")]

print(json.dumps({
    "processes": processes(),
    "shared memory": below("/dev/shm"),
    "run": [path for path in below("/run") if path not in KEPT],
    "open runs": state(),
    "images on disk": [name for name in os.listdir("/var/lib") if name.startswith("reberth-")],
    "listening": sockets(),
    "nft": tool("nft", "list", "ruleset"),
    "iptables": [line for line in tool("iptables-save") + tool("ip6tables-save") if not line.startswith("#")],
    "mounts": read("/proc/mounts").splitlines(),
    "cgroups": [path for path in below("/sys/fs/cgroup") if os.path.isdir(path)],
    "temporary": below("/tmp") + below("/var/tmp"),
    "ssh": [path + " " + read(path) for path in below("/root/.ssh")],
    "addresses": [" ".join(line.split()[1:4]) for line in tool("ip", "-o", "addr")],
}))
"""


def take(node: Node) -> Snapshot:
    """What is on this node now."""
    done = node.run(["python3", "-I", "-S", "-c", PROGRAM])
    return {key: frozenset(words) for key, words in json.loads(done.stdout).items()}


def outside(state: Path, ids: Iterable[str], mark: str) -> Snapshot:
    """What runs of this session left on the outer machine: processes by their environment, files by the runs' ids."""
    marked = f"XDG_STATE_HOME={state}".encode()
    known = tuple(ids)
    places = [Path(top) for top in ("/dev/shm", "/run", "/run/reberth", "/var/lib", "/var/lib/reberth", "/tmp")]
    names = [path for top in places if top.is_dir() for path in top.iterdir()]
    mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    return {
        "processes": frozenset(_with_environment(marked)),
        "files": frozenset(str(path) for path in names if any(id in path.name for id in known)),
        "mounts": frozenset(line for line in mounts if mark in line),
    }


def _with_environment(marked: bytes) -> Iterable[str]:
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            if marked in (path / "environ").read_bytes().split(b"\0"):
                words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"{path.name} {words[:150]}"
        except OSError:
            continue


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that came or went."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, frozenset()), after.get(key, frozenset())
        lines += [f"{key}: new: {word}" for word in sorted(new - old)]
        lines += [f"{key}: gone: {word}" for word in sorted(old - new)]
    return lines


class Watch:
    """The nodes and the outer machine as they are now; later `leftovers` says what is not as it was."""

    def __init__(self, nodes: Iterable[Node], state: Path, ids: list[str]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._state, self._ids = state, ids
        self._before = {name: self._quiet(name) for name in (*self._nodes, OUTSIDE)}

    def _quiet(self, name: str) -> Snapshot:
        """A look at it once no connection is at sshd's door: what asked whether it is there may still be."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = self._look(name)
            if not any("[accepted]" in line for line in found["processes"]) or time.monotonic() > deadline:
                return found
            time.sleep(0.25)

    def _look(self, name: str) -> Snapshot:
        if name in self._nodes:
            return take(self._nodes[name])
        site = next(iter(self._nodes.values())).site
        return outside(self._state, self._ids, str(site.state))

    def again(self) -> Watch:
        """A new one that begins here."""
        return Watch(self._nodes.values(), self._state, self._ids)

    def leftovers(self, *names: str, patience_s: float = PATIENCE_S) -> list[str]:
        """What is not as before (on these nodes, or everywhere), after waiting for clean-ups that are under way."""
        deadline = time.monotonic() + patience_s
        while True:
            lines = []
            for name in names or self._before:
                lines += [f"{name}: {line}" for line in differences(self._before[name], self._look(name))]
            if not lines or time.monotonic() > deadline:
                return lines
            time.sleep(0.25)

    def check(self, *names: str, patience_s: float = PATIENCE_S) -> None:
        """Fail the test with each thing that is left behind or gone."""
        found = self.leftovers(*names, patience_s=patience_s)
        assert not found, "not as before:\n" + "\n".join(found)
