"""How things are broken: processes are found by what they are, inside a node's cgroup or among our own children."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reberth_lab import cgroups
from reberth_lab.lab import Lab
from reberth_lab.node import Node

HUNT_S = 20.0
KILL_S = 5.0
# A table of its own: what a node hears (deaf) or says (mute) over ssh is dropped.
HALF = {
    "deaf": "table inet half { chain in { type filter hook input priority -200; tcp dport 22 drop; }\n}",
    "mute": "table inet half { chain out { type filter hook output priority -200; tcp sport 22 drop; }\n}",
}
FLIP = """
import os, sys
path = os.path.join(sys.argv[1], "pages-1.img")
with open(path, "r+b") as file:
    for at in range(2048, os.path.getsize(path), 4096):
        file.seek(at); byte = file.read(1)[0]; file.seek(at); file.write(bytes([byte ^ 1]))
"""


@dataclass(frozen=True)
class Found:
    """A process on the outer machine."""

    pid: int
    ppid: int
    comm: str
    words: tuple[str, ...]


def look(pid: int) -> Found | None:
    """What /proc says of it, None when it has gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    head, _, rest = stat.rpartition(")")
    return Found(pid, int(rest.split()[1]), head.partition("(")[2], tuple(words))


def on_node(node: Node) -> list[Found]:
    """Every process of a node."""
    return [one for pid in cgroups.processes(node.cgroup) if (one := look(pid)) is not None]


def helpers(node: Node) -> list[Found]:
    """Helpers that serve a connection (not the process that keeps sshd's channel open)."""
    ours = [one for one in on_node(node) if "control" in one.words and one.comm.startswith("python3")]
    return [one for one in ours if one.pid not in {other.ppid for other in ours}]


def tools(node: Node, name: str) -> list[Found]:
    """The topmost processes of a tool that works for a run: criu that dumps or restores, or runc."""
    every = [one for one in on_node(node) if one.comm == name or (one.words and os.path.basename(one.words[0]) == name)]
    every = [one for one in every if "lazy-pages" not in one.words]
    pids = {one.pid for one in every}
    return [one for one in every if one.ppid not in pids]


def connections(controller: int, address: str, bulk: bool) -> list[Found]:
    """The controller's ssh processes to one node."""
    found = []
    for name in os.listdir("/proc"):
        one = look(int(name)) if name.isdigit() else None
        if not one or one.comm != "ssh" or one.ppid != controller or address not in one.words:
            continue
        if any(word.startswith("aes128-gcm") for word in one.words) is bulk:
            found.append(one)
    return found


def kill(victims: list[Found]) -> int:
    """SIGKILL, and wait until they are dead: the signal alone takes a while; returns how many there were."""
    for one in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)
    end_s = time.monotonic() + KILL_S
    while any(_lives(one.pid) for one in victims) and time.monotonic() < end_s:
        time.sleep(0.001)
    return len(victims)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def hunt(
    ready: Callable[[], list[Found]], victims: Callable[[], list[Found]], delay_s: float
) -> tuple[threading.Thread, list[int]]:
    """Wait until something is there, then so long, then kill the victims; how many there were is in the list then."""
    hits: list[int] = []

    def run() -> None:
        end_s = time.monotonic() + HUNT_S
        while not ready() and time.monotonic() < end_s:
            time.sleep(0.001)
        time.sleep(delay_s)
        hits.append(kill(victims()))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, hits


@contextlib.contextmanager
def cut(lab: Lab, node: Node, kind: str) -> Iterator[None]:
    """A node's link is down, or works in one direction, until the end of the block."""
    if kind == "down":
        lab.link_down(node.name)
    else:
        node.run(["nft", "-f", "-"], input=HALF[kind])
    try:
        yield
    finally:
        if kind == "down":
            lab.link_up(node.name)
        else:
            node.run(["nft", "delete", "table", "inet", "half"])
