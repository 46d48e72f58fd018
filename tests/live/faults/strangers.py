"""A hundred strangers at once: whoever can reach a node, or has an account there, knocks where anything listens.

Each asks for a page in CRIU's own words. Only how much they are told counts: a page is 4096 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from reberth.node.pages.relay import HEADERS, PAGE_BYTES
from reberth_lab.node import Node

COUNT = 100
NOBODY = 65534
CRIU_PORT = 9876
SSH_PORT = "22"  # whoever only hangs about there is sshd's business, and is shut out by it for a while
PS_IOV_GET = 7
KNOCK = r"""
import json, os, select, socket, sys, time
said = json.loads(sys.argv[1])
if said["uid"]:
    os.setgroups([]); os.setgid(said["uid"]); os.setuid(said["uid"])
found, open_ones = {"refused": 0, "taken": 0, "most_bytes": 0}, {}
for number in range(said["count"]):
    place = said["places"][number % len(said["places"])]
    one = socket.socket(socket.AF_INET if isinstance(place, list) else socket.AF_UNIX)
    one.settimeout(2)
    try:
        one.connect(tuple(place) if isinstance(place, list) else place.replace("@", "\0", 1))
        one.sendall(bytes.fromhex(said["words"][number % len(said["words"])]))
        open_ones[one] = 0
        found["taken"] += 1
    except OSError:
        found["refused"] += 1
end_s = time.monotonic() + 1
while open_ones and time.monotonic() < end_s:
    for one in select.select(list(open_ones), [], [], 0.1)[0]:
        try:
            data = one.recv(1 << 16)
        except OSError:
            data = b""
        if data:
            open_ones[one] += len(data)
        found["most_bytes"] = max(found["most_bytes"], open_ones[one])
        if not data:
            del open_ones[one]
print(json.dumps(found))
"""


@dataclass
class Knocks:
    """What became of them; `most_bytes` is the most that one of them was told."""

    refused: int = 0
    taken: int = 0
    most_bytes: int = 0
    problems: list[str] = field(default_factory=list)


def knock(nodes: Sequence[Node], pid: int, base: int) -> Knocks:
    """A hundred as a local user of each node and a hundred from the other one, for a page of `pid` at `base`."""
    words = [h.pack(PS_IOV_GET, 1, base, pid).hex() for h in HEADERS.values()]
    every = Knocks()
    for here, there in (tuple(nodes), tuple(nodes)[::-1]):
        local = [["127.0.0.1", CRIU_PORT], *([ip, port] for ip, port in _listening(here)), *_unix(here)]
        remote = [[there.address, port] for port in dict.fromkeys([CRIU_PORT, *(p for _, p in _listening(there))])]
        for who, uid, places in (("a user of", NOBODY, local), ("a stranger from", 0, remote)):
            said = {"uid": uid, "count": COUNT, "places": places, "words": words}
            done = here.run(["python3", "-I", "-S", "-c", KNOCK, json.dumps(said)], check=False)
            if done.returncode:
                every.problems.append(f"{who} {here.name} could not knock: {done.stderr[-300:]}")
                continue
            found = json.loads(done.stdout)
            every.refused += found["refused"]
            every.taken += found["taken"]
            every.most_bytes = max(every.most_bytes, found["most_bytes"])
            if found["most_bytes"] >= PAGE_BYTES:
                every.problems.append(f"{who} {here.name} was told {found['most_bytes']} bytes at one of {places}")
    return every


def _listening(node: Node) -> list[tuple[str, int]]:
    """Addresses and ports of TCP that are open now; a wildcard is asked by the loopback."""
    found = []
    for line in node.run(["ss", "-Hltn"]).stdout.splitlines():
        address, _, port = line.split()[3].rpartition(":")
        if port != SSH_PORT:
            found.append(("127.0.0.1" if address in ("*", "0.0.0.0", "[::]", "[::1]") else address, int(port)))
    return found


def _unix(node: Node) -> list[str]:
    """Sockets of this machine's own kind; a name that begins with @ is an abstract one."""
    return [line.split()[4] for line in node.run(["ss", "-Hlx"]).stdout.splitlines()]
