"""Containers of LXD or Incus on the nodes, as their tests see them: made by the client, judged by their answers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from livekit.tier import KEEP
from reberth_lab import lxd as lab_lxd
from reberth_lab import rootfs
from reberth_lab.lab import VM, Lab
from reberth_lab.node import Node
from reberth_lab.proc import LabError

PROFILES = ("-p", "default", "-p", "counter")
DEFAULT_MIB = 16  # of the image's own (guest/lxd-image.sh)
ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    s.settimeout(30)
    s.connect(f"/proc/{sys.argv[1]}/root/run/counter.sock")
    print(s.makefile().read())
"""


def lab_with_lxd(part: str = "lxd", *more: str, kind: str | None = None) -> Iterator[Lab]:
    """Two nodes with LXD, apart from the session's lab, which has none; skips the test where there can be none.

    `part` is lxd or incus, `more` are further parts; `kind` is the lab's.
    """
    if os.geteuid() != 0:
        pytest.skip("two nodes need root: namespaces, mounts, links")
    if importlib.util.find_spec("pylxd") is None:
        pytest.skip("pylxd is not installed (pip install 'reberth[lxd]')")
    suffix = {"lxd": "l", "incus": "i"}[part] if kind == VM else {"lxd": "x", "incus": "y"}[part]
    lab = Lab(f"{(os.environ.get('REBERTH_LAB_NAME') or 'live')[:8]}{suffix}", say=lambda _: None)
    if not KEEP:
        lab.down()
    try:
        with contextlib.ExitStack() as way_back:
            if not KEEP:
                way_back.callback(lab.down)
            lab.up(2, kind=kind, with_parts=(part, *more))
            yield lab
    except LabError as error:
        if rootfs.cached(lab.site.cache) is not None:
            raise
        pytest.skip(f"no nodes with {part} can be made: {error} ({error.hint})")


def reset(lab: Lab, nodes: Sequence[Node]) -> None:
    """Bring the lab to where it was when it came: links up, daemons at work, no container, no rule of a firewall."""
    for node in nodes:
        lab.link_up(node.name)
        node.run(["nft", "flush", "ruleset"], check=False)
        lab_lxd.start(node)
        for name in lxc(node, "list", "-f", "csv", "-c", "n").split():
            lxc(node, "delete", "--force", name)
        for alias in lxc(node, "alias", "list", "-f", "csv").splitlines():
            lxc(node, "alias", "remove", alias.partition(",")[0])


def lxc(node: Node, *words: str, check: bool = True) -> str:
    """The native client on a node, `lxc` or `incus`, never an alias of it."""
    plain = {"LXC_ALIASES": "1", "INCUS_ALIASES": "1"}
    done = node.run([lab_lxd.kind_of(node).client, *words], check=check, env=plain, timeout_s=120)
    return done.stdout


def root_of(node: Node, name: str) -> str:
    """Where a container's root filesystem is on its node."""
    return f"{lab_lxd.kind_of(node).state}/containers/{name}/rootfs"


def launch(node: Node, name: str, *words: str, mebibytes: int = DEFAULT_MIB) -> None:
    """Start a container that counts, and wait until it answers."""
    lxc(node, "init", "-q", "counter", name, *PROFILES, "-c", "security.privileged=true", *words)
    if mebibytes != DEFAULT_MIB:  # a pool of kind lvm or zfs mounts the volume with the start
        node.run(["sh", "-c", 'echo "$1 1" >"$2/etc/counter"', "sh", str(mebibytes), root_of(node, name)])
    lxc(node, "start", name)
    deadline = time.monotonic() + 60
    while not ask(node, name):
        assert time.monotonic() < deadline, f"{name} does not answer"
        time.sleep(0.1)


def fresh(nodes: Sequence[Node], name: str, *words: str) -> Iterator[str]:
    """A new container on the first node; nothing of it stays on either."""
    delete(nodes, name)
    launch(nodes[0], name, *words)
    yield name
    delete(nodes, name)


def state(node: Node, name: str) -> dict[str, Any]:
    """What the daemon says of a container; empty when there is none."""
    said = lxc(node, "query", f"/1.0/instances/{name}?recursion=1", check=False)
    return dict(json.loads(said)) if said else {}


def config(node: Node, name: str) -> dict[str, str]:
    """The container's own configuration without what the daemon keeps for itself."""
    return {k: v for k, v in state(node, name).get("config", {}).items() if not k.startswith("volatile.")}


def status(node: Node, name: str) -> str:
    """Running, Stopped, ...; empty when there is none."""
    return str(state(node, name).get("status", ""))


def ask(node: Node, name: str) -> dict[str, Any]:
    """The container's own verdict; empty when it does not answer."""
    pid = (state(node, name).get("state") or {}).get("pid", 0)
    done = node.run(["python3", "-c", ASK, str(pid)], check=False, timeout_s=40)
    return dict(json.loads(done.stdout)) if done.returncode == 0 and done.stdout.strip() else {}


def healthy(node: Node, name: str, before: dict[str, Any] | None = None, *, late: bool = True) -> dict[str, Any]:
    """As `ask`; fails the test unless it runs, nothing is damaged, and it has gone on since `before`.

    Without `late` a file may lack what was written to it in the second in which it was copied first.
    """
    said = ask(node, name)
    assert said, f"{name} does not answer on {node.name}: {status(node, name) or 'missing'}"
    assert (said["bad_words"], said["bad_lines"], said["bad_seconds"] if late else 0) == (0, 0, 0), said
    if before:
        assert said["pid"] == before["pid"] and said["beats"] > before["beats"], (before, said)
    return said


def check_rounds(report: dict[str, Any], most: int) -> None:
    """The rounds before the last one: real ones, at least three, no more than asked for."""
    rounds: list[dict[str, Any]] = report["rounds"][:-1]
    assert 3 <= len(rounds) <= most, report["rounds"]
    assert rounds[0]["pages_skipped_parent"] == 0 < rounds[0]["pages_written"], rounds
    assert all(one["pages_skipped_parent"] > 0 and one["bytes"] > 0 for one in rounds[1:]), rounds


def traces(nodes: Sequence[Node]) -> list[str]:
    """What a run must not leave on a node."""
    program = "ls -d /etc/criu/default.conf /var/lib/reberth/[!e]* /run/reberth/h-* 2>/dev/null"
    return [f"{n.name} {line}" for n in nodes for line in n.run(["sh", "-c", program], check=False).stdout.splitlines()]


def delete(nodes: Sequence[Node], name: str) -> None:
    """Remove a container wherever it is."""
    for node in nodes:
        lxc(node, "delete", "--force", name, check=False)
