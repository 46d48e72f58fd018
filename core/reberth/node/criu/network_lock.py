"""CRIU's network lock of a tree that shares the node's network: nft tables of its own, `inet CRIU-...`.

CRIU 4.2.1 leaves the table on the source after a successful dump, where it silences the next copy that comes back with
the same connections; and it restores established connections without any lock on the target, where the first stray
packet ends them with a reset (2 of 5 restores, tried 2026-11-23). So the table goes with the images: it stands on the
target before the restore, which removes it, and goes from the source when that is given up.

Whose a table is: since 4.2 its name is the beginning of a random id of that one criu (the buffer cuts it off), which
is in the images when they are whole. Before that only the connections in it tell.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re

from reberth.node.errors import OpError
from reberth.node.system import procs, spawn

PREFIX = "CRIU-"
RUN_ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LOCKED = re.compile(r"([0-9a-f.:]+) \. ([0-9]+) \. ([0-9a-f.:]+) \. ([0-9]+)")

Pair = tuple[str, str]


def _inside(pid: int) -> list[str]:
    """Return the words before a command that is to work in a task's network; none where that is the node's."""
    ours = pid == 0 or procs.link(f"/proc/{pid}/ns/net") in ("", procs.link("/proc/self/ns/net"))
    return [] if ours else ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]


def tables(pid: int = 0) -> set[str]:
    """Names of the lock tables of any CRIU in a task's network (the node's without one); empty where nft is missing."""
    try:
        listed = spawn.run([*_inside(pid), "nft", "list", "tables", "inet"], timeout_s=5.0)
    except OpError:
        return set()
    words = (line.split() for line in listed["out"].splitlines())
    return {w[2] for w in words if len(w) == 3 and w[2].startswith(PREFIX)}


def of_images(directory: str, names: set[str]) -> set[str]:
    """Return the tables among these that the criu of these images made; all of them where an older one tells no id."""
    with contextlib.suppress(OSError), open(os.path.join(directory, "inventory.img"), "rb") as file:
        found = RUN_ID.search(file.read(1 << 16))
        if found:
            run_id = found[0].decode("ascii")
            return {name for name in names if name != PREFIX and run_id.startswith(name[len(PREFIX) :])}
    return names


def of_connections(names: set[str], pairs: set[Pair], pid: int = 0) -> set[str]:
    """Return the tables among these, in a task's network, that lock one of these connections.

    Any while no criu works here.
    """
    working = procs.criu_works()
    return {name for name in names if not working or _pairs(name, pid) & {_plain(pair) for pair in pairs}}


def _pairs(name: str, pid: int) -> set[Pair]:
    text = spawn.run([*_inside(pid), "nft", "-n", "list", "table", "inet", name], timeout_s=5.0)["out"]
    return {_plain((f"{a}:{port}", f"{b}:{peer}")) for a, port, b, peer in LOCKED.findall(text)}


def _plain(pair: Pair) -> Pair:
    """Return each end in one form: IPv6 shortened, IPv4 inside IPv6 as IPv4."""
    ends = []
    for text in pair:
        host, _, port = text.rpartition(":")
        found = ipaddress.ip_address(host.strip("[]"))
        ends.append(f"{getattr(found, 'ipv4_mapped', None) or found} {port}")
    return ends[0], ends[1]


def export(names: set[str]) -> str:
    """Return the tables as text for `load`."""
    return "".join(spawn.run(["nft", "list", "table", "inet", name], timeout_s=5.0)["out"] for name in sorted(names))


def load(text: str) -> None:
    """Put the tables here; raises OpError when nft does not take them."""
    done = spawn.run(["nft", "-f", "-"], timeout_s=5.0, stdin=text)
    if done["code"] != 0:
        raise OpError("network-lock", "the network lock cannot be set on the target", tail=done["err"][-1000:])


def names_in(text: str) -> list[str]:
    """Names of the tables in an exported text; only CRIU's own are known."""
    words = (line.split() for line in text.splitlines())
    return [w[2] for w in words if len(w) >= 3 and w[:2] == ["table", "inet"] and w[2].startswith(PREFIX)]


def delete(name: str, pid: int = 0) -> None:
    """Remove one table; none there is no error."""
    spawn.run([*_inside(pid), "nft", "delete", "table", "inet", name], timeout_s=5.0)
