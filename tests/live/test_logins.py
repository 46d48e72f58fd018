"""Ways to log in: `node add`, `check` and `move` through jump hosts, Match, odd shells and their noise, and sudo.

Live because logins, shells and sudo are those of a real sshd.

`REBERTH_LOGINS=all` takes the whole table of `livekit.logins`, which the soak does; else its first part and a sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from livekit import logins
from livekit.command import Command
from livekit.stand import Stand, healthy

import reberth_ssh
from reberth.commands import add_node, host_key
from reberth.config.config import Config
from reberth.connect import data
from reberth.connect.helper import HelperShell
from reberth_hooks import ReberthError
from reberth_lab.lab import Lab
from reberth_lab.node import Node

TAIL = [name for name in logins.WAYS if name not in logins.FIRST]
if os.environ.get("REBERTH_LOGINS") != "all":
    TAIL = TAIL[::6]


@pytest.fixture
def stranger(lab: Lab, reberth: Command, node1: Node, tmp_path: Path) -> Command:
    """A command that knows node1 by the lab's key, and nothing of node2."""
    (tmp_path / "config").mkdir()
    text = lab.config_path.read_text(encoding="utf-8").partition("[nodes.node2]")[0].replace("direct = true\n", "")
    (tmp_path / "config/config.toml").write_text(text, encoding="utf-8")
    return Command(tmp_path / "config/config.toml", tmp_path / "state", reberth.ids)


@pytest.fixture
def place(request: pytest.FixtureRequest, lab: Lab, node2: Node, tmp_path: Path) -> Iterator[logins.Place]:
    """One way, made and undone."""
    if node2.run(["sh", "-c", "command -v tcsh"], check=False).returncode != 0:
        pytest.skip("the nodes have no odd shells: reberth lab up --with shells")
    made = logins.Place(lab, tmp_path / "way", request.param)
    made.path.mkdir()
    yield made
    made.undo()


@pytest.mark.parametrize("place", logins.FIRST, indirect=True)
def test_a_way_to_log_in(place: logins.Place, stranger: Command, works: Stand, node1: Node, node2: Node) -> None:
    env, way = place.make(), place.way
    added = stranger.run("node", "add", "odd", *place.add_words(), "--yes", env=env)
    assert added.code == way.code and way.told in added.stderr, str(added)
    if way.code:
        assert "odd" not in stranger.config.read_text()
        return
    checked = stranger.run("check", "odd", "--json", env=env)
    assert checked.code == 0, str(checked)
    handle = works.raw("memory", "--mib", "2")
    for source, target, arrives in (("node1", "odd", node2), ("odd", "node1", node1)):
        moved = stranger.move(f"{source}:criu/{handle.pid}", f"{target}:", env=env)
        assert moved.code == 0, str(moved)
        healthy(arrives, handle)


@pytest.mark.parametrize("place", TAIL, indirect=True)
def test_another_way(place: logins.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same functions in this process, which takes a few connections and no start of the command."""
    way = place.way
    for name, value in place.make().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REBERTH_CONFIG", str(tmp_path / "config.toml"))
    if way.code:
        with pytest.raises(ReberthError) as caught:
            connect(place)
        assert caught.value.exit_code == way.code, str(caught.value)
        assert way.told in f"{caught.value.message} {caught.value.hint}", f"{caught.value.message}\n{caught.value.tail}"
        return
    key = connect(place)
    assert key.known == "" if not way.told else way.told in f"your ssh knows it already: {key.known}"


def connect(place: logins.Place) -> host_key.HostKey:
    """What `node add` and `check` do: fetch the key, pin it, start a helper, and open a data connection."""
    options: dict[str, object] = dict(identity="", user="", port=0) | place.options()
    node = add_node.new_node(
        Config({}), "odd", str(options.pop("address")), str(options.pop("become", "none")), options
    )
    key = host_key.fetch(node, reberth_ssh.reberth_connect(node))
    node = add_node.pin(node, key.line)
    shell = HelperShell(node, reberth_ssh.reberth_connect(node))
    try:
        assert shell.facts["uid"] == 0
        data.look(shell)
    finally:
        shell.close()
    return key
