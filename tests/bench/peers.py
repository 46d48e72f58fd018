"""What reberth is held against: two shell scripts as people write them, run on the source node as root.

`plain` is checkpoint, rsync over a fresh ssh, restore. `tuned` does what can be done without a program: images in
memory, one ssh connection opened beforehand, tar instead of rsync. Both have the bundle on the target already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from small import Small

from reberth_lab.node import Node

DUMP = {
    "runc": 'runc checkpoint --image-path "$d" --work-path "$d" $tcp "$name"',
    "criu": 'criu dump -t "$pid" -D "$d" -o dump.log $tcp',
}
RESTORE = {
    "runc": "cd / && runc restore -d --bundle $bundle --image-path $d --work-path $d $tcp $name",
    "criu": "cd / && criu restore -d -D $d -o restore.log $tcp",
}
CARRY = {
    "plain": 'rsync -a "$d/" "node2:$d/"',
    "tuned": 'tar -C "$d" -cf - . | ssh -S "$mux" node2 "tar -C $d -xf -"',
}
SCRIPT = """set -e
name={name} pid={pid} bundle={bundle} d={directory} tcp='{tcp}' mux=/run/bench.mux
mkdir -p "$d"
{dump}
{carry}
ssh {options} node2 "{restore} </dev/null >/dev/null 2>&1"
"""


@dataclass(frozen=True)
class Peer:
    """A way to move: `prepare` is not timed, `move` is."""

    name: str
    prepare: Callable[[Node, Node, Small], None]
    move: Callable[[Node, Small, str, str], None]


def _directory(kind: str) -> str:
    return "/dev/shm/bench" if kind == "tuned" else "/var/tmp/bench"


def _prepare(kind: str) -> Callable[[Node, Node, Small], None]:
    def prepare(node1: Node, node2: Node, handle: Small) -> None:
        for node in (node1, node2):
            node.run(["rm", "-rf", _directory(kind)])
            node.run(["mkdir", "-p", _directory(kind)])
        if handle.bundle:
            node2.run(["mkdir", "-p", handle.bundle])
            node1.run(["rsync", "-a", "--delete", f"{handle.bundle}/", f"node2:{handle.bundle}/"], timeout_s=300)
        if kind == "tuned":
            node1.run(["sh", "-c", "ssh -S /run/bench.mux -O exit node2; rm -f /run/bench.mux"], check=False)
            node1.run(["sh", "-c", "ssh -M -N -f -S /run/bench.mux node2 </dev/null >/dev/null 2>&1"])

    return prepare


def _move(kind: str) -> Callable[[Node, Small, str, str], None]:
    def move(node1: Node, handle: Small, backend: str, tcp: str) -> None:
        words = {"name": handle.container or "-", "pid": handle.pid, "bundle": handle.bundle or "-"}
        text = SCRIPT.format(
            **words,
            directory=_directory(kind),
            tcp=tcp,
            dump=DUMP[backend],
            carry=CARRY[kind],
            restore=RESTORE[backend],
            options="-S /run/bench.mux" if kind == "tuned" else "",
        )
        node1.run(["sh", "-c", text], timeout_s=300)

    return move


SCRIPTS = tuple(Peer(kind, _prepare(kind), _move(kind)) for kind in ("plain", "tuned"))
