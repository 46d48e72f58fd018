"""What a near-live move must carry and keep apart: hooks of the container tell of its last and its first moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from livekit import lxd as kit
from reberth_lab.node import Node

NEAR = ("--mode", "near-live")
GATE, LAST = "/run/near-gate", "/run/near-last"  # what runs before a container's start, and after its last process
ARRIVED, STOPPED, STARTS = "/run/near-arrived", "/run/near-stopped", "/run/near-starts"
HOOKS = f"raw.lxc=lxc.console.path = none\nlxc.hook.pre-start = {GATE}\nlxc.hook.stop = {LAST}"
# Written again, as long and in the same second as before, when the first sync has taken the earlier one. The clock
# since boot is that of both nodes, which are namespaces of one machine.
LATE = f"""#!/bin/sh
printf late >"$1/etc/probe"; touch -d "$(cat "$1/etc/second").9" "$1/etc/probe"; cat /proc/uptime >{STOPPED}
"""
EARLY = """
date +@%s >"$1/etc/second"; printf once >"$1/etc/probe"; touch -d "$(cat "$1/etc/second").1" "$1/etc/probe"
"""


def counter(nodes: Sequence[Node], name: str, *words: str) -> None:
    """Start a container on the first node, which starts with its daemon and has hooks that do nothing yet."""
    for node in nodes:
        node.write(GATE, "#!/bin/sh\nexit 0\n", 0o755)
        node.write(LAST, "#!/bin/sh\nexit 0\n", 0o755)
    kit.launch(nodes[0], name, "-c", HOOKS, "-c", "boot.autostart=true", *words)
    nodes[0].run(["sh", "-c", EARLY, "sh", kit.root_of(nodes[0], name)])


def watch(nodes: Sequence[Node], name: str) -> None:
    """From now on its stop on the first node and its start on the second leave behind how it was then."""
    here, there = nodes
    here.write(LAST, LATE.replace("$1", kit.root_of(here, name)), 0o755)
    there.write(GATE, f"#!/bin/sh\ncp {beats_file(there, name)} {ARRIVED}; cat /proc/uptime >{STARTS}\n", 0o755)


def check(nodes: Sequence[Node], name: str, before: dict[str, Any]) -> None:
    """All that it wrote was there before it started, and it did not start before it had ended on the first node.

    The old one must have been kept: a started counter begins its file anew, so both are compared as they were.
    """
    here, there = nodes
    written = here.run(["cat", beats_file(here, name)]).stdout
    assert there.run(["cat", ARRIVED]).stdout == written and len(written.splitlines()) > before["beats"]
    assert probe(there, name) == "late"
    stopped, starts = (float(node.read(path).split()[0]) for node, path in ((here, STOPPED), (there, STARTS)))
    assert stopped <= starts, (stopped, starts)


def beats_file(node: Node, name: str) -> str:
    """What it writes all the time."""
    return f"{kit.root_of(node, name)}/var/log/beats"


def probe(node: Node, name: str) -> str:
    """A file that was written before the move."""
    return node.run(["cat", f"{kit.root_of(node, name)}/etc/probe"]).stdout


def answering(node: Node, name: str) -> dict[str, Any]:
    """Its answer, once it has one: it was started a moment ago."""
    deadline = time.monotonic() + 30
    while not kit.ask(node, name):
        assert time.monotonic() < deadline, f"{name} does not answer on {node.name}"
        time.sleep(0.2)
    return kit.healthy(node, name)
