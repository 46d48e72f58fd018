"""Two machines of one's own over ssh, as the README's second page has it: add, check, plan, move, history, report.

Live because host keys, agents and shells are those of a real sshd.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy

from reberth_lab.lab import Lab
from reberth_lab.node import Node
from reberth_lab.proc import LabError

PAGE = Path(__file__).parents[2] / "docs/how-to/restrict-ssh.md"
Settings = Callable[[Callable[[str], str]], dict[str, str]]


@pytest.fixture
def stranger(reberth: Command, tmp_path: Path) -> Command:
    """The command of somebody who has no configuration yet."""
    return Command(tmp_path / "config" / "config.toml", tmp_path / "state", reberth.ids)


def fingerprint(node: Node) -> str:
    """The node's host key as its owner reads it there."""
    return node.run(["ssh-keygen", "-l", "-f", "/etc/ssh/ssh_host_ed25519_key.pub"]).stdout.split()[1]


def test_two_strangers(lab: Lab, stranger: Command, works: Stand, watch: Watch, node1: Node, node2: Node) -> None:
    key = ["--user", "root", "--identity", str(lab.site.state / "id_ed25519")]
    first = stranger.run("node", "add", "one", node1.address, *key, "--fingerprint", fingerprint(node1))
    assert first.code == 0, str(first)
    assert "criu" in first.stdout and "runc" in first.stdout
    second = stranger.run("node", "add", "two", "--address", node2.address, *key, "--yes")
    assert second.code == 0, str(second)
    assert fingerprint(node2) in second.stderr
    nodes = stranger.run("node", "ls", "--json").report["nodes"]
    assert {node["name"]: node["backends"] for node in nodes if node["name"] != "local"} == {
        "one": ["criu", "runc"],
        "two": ["criu", "runc"],
    }
    checked = stranger.run("check", "one", "two", "--json")
    assert checked.code == 0, str(checked)

    handle = works.container("fswriter")
    planned = stranger.run("plan", f"one:runc/{handle.container}", "two:", "--json")
    assert planned.code == 0, str(planned)
    assert not planned.report["refused"]
    healthy(node1, handle)
    moved = stranger.run("move", f"one:{handle.container}", "two:", "--json")
    assert moved.code == 0, str(moved)
    assert moved.report["outcome"] == "moved"
    healthy(node2, handle)
    assert gone(node1, handle)

    runs = stranger.run("history", "--json").report["runs"]
    assert [(run["id"], run["outcome"]) for run in runs] == [(moved.report["id"], "moved")]
    assert json.loads(stranger.run("report", moved.report["id"], "--json").stdout) == moved.report
    works.stop(handle)
    watch.check()


def test_a_host_key_that_is_another_ones(lab: Lab, stranger: Command, watch: Watch, node1: Node, node2: Node) -> None:
    key = ["--user", "root", "--identity", str(lab.site.state / "id_ed25519")]
    wrong = stranger.run("node", "add", "one", node1.address, *key, "--fingerprint", fingerprint(node2))
    assert wrong.code == 12, str(wrong)
    assert fingerprint(node1) in wrong.stderr
    unconfirmed = stranger.run("node", "add", "one", node1.address, *key)
    assert unconfirmed.code == 12, str(unconfirmed)
    assert not stranger.config.exists()
    watch.check()


def test_a_node_that_has_changed_its_host_key(
    lab: Lab, stranger: Command, watch: Watch, node1: Node, node2: Node
) -> None:
    key = ["--user", "root", "--identity", str(lab.site.state / "id_ed25519")]
    added = stranger.run("node", "add", "one", node1.address, *key, "--fingerprint", fingerprint(node1))
    assert added.code == 0, str(added)
    text = stranger.config.read_text(encoding="utf-8")
    stranger.config.write_text(text.replace(f'"{node1.address}"', f'"{node2.address}"'), encoding="utf-8")
    pinned = stranger.config.parent / "known_hosts.d" / "one"
    pinned.write_text(pinned.read_text().replace(node1.address, node2.address))
    refused = stranger.run("check", "one", "--json")
    assert refused.code == 12, str(refused)
    assert "reberth node add --again one" in refused.error
    before = stranger.config.read_text(encoding="utf-8")
    mended = stranger.run("node", "add", "--again", "one", "--fingerprint", fingerprint(node2))
    assert mended.code == 0, str(mended)
    assert fingerprint(node1) in mended.stderr and fingerprint(node2) in mended.stderr
    assert stranger.config.read_text(encoding="utf-8") == before
    assert stranger.run("check", "one").code == 0
    watch.check()


def test_s12_a_key_that_is_held_to_reberth(
    settings: Settings, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    """With the program of docs/how-to/restrict-ssh.md the key moves workloads, and does nothing else."""
    (gate,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    keys = node2.read("/root/.ssh/authorized_keys")
    node2.write("/usr/local/sbin/reberth-only", gate, 0o755)
    held = f'restrict,command="/usr/local/sbin/reberth-only" {keys}'
    handle = works.raw("memory", "--mib", "4")
    through_here = settings(lambda text: "".join(x for x in text.splitlines(True) if not x.startswith("direct")))
    node2.write("/root/.ssh/authorized_keys", held, 0o600)
    try:
        with pytest.raises(LabError) as caught:
            node2.ssh(["id"])
        assert "for reberth alone" in str(caught.value)
        done = reberth.move(f"node1:criu/{handle.pid}", "node2:", env=through_here)
        assert done.code == 0, str(done)
        healthy(node2, handle)
    finally:
        node2.write("/root/.ssh/authorized_keys", keys, 0o600)
        node2.run(["rm", "/usr/local/sbin/reberth-only"])
    assert "uid=0" in node2.ssh(["id"]).stdout  # the twin: it was the gate
    works.stop(handle)
    watch.check()
