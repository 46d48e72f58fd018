"""What a plugin's commands get of the host: programs of this machine, and an inventory that a failure leaves alone."""

from __future__ import annotations

import pytest

from reberth.commands import add_node
from reberth.commands.controller import Controller
from reberth.connect import process
from reberth_hooks import CommandError, Node, UnreachableError

PHONE = Node("phone", "127.0.0.1", "android", options={"android": {"port": 1}})


@pytest.fixture
def config(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    monkeypatch.setenv("REBERTH_CONFIG", str(path))
    return path


def test_programs_end_with_their_words():
    one = Controller()
    assert one.run(["cat"], stdin="in").out == "in"
    assert one.run(["sh", "-c", "exit 3"], check=False).code == 3
    with pytest.raises(CommandError) as caught:
        one.run(["sh", "-c", "echo no >&2; exit 3"])
    assert caught.value.tail == "no"


def test_a_program_that_takes_too_long_is_ended(tmp_path):
    with pytest.raises(CommandError, match="did not end"):
        process.run_local(["sh", "-c", 'sleep 1; touch "$1"', "sh", str(tmp_path / "trace")], timeout_s=0.1)


def test_a_node_is_pinned_probed_and_written(config, monkeypatch):
    seen = []
    monkeypatch.setattr(add_node, "probe", lambda node, *_: (seen.append(node), (node, {"criu": "no root"}))[1])
    node, unusable = Controller().add_node(PHONE, "phone ssh-ed25519 AAAA")
    pinned = config.parent / "known_hosts.d/phone"
    assert pinned.read_text() == "phone ssh-ed25519 AAAA\n"
    assert seen[0].options_of("android") == {"port": 1, "known_hosts": str(pinned)}
    assert Controller().nodes()["phone"] == node
    assert unusable == {"criu": "no root"}
    assert Controller().remove_node("phone")
    assert not pinned.exists()
    assert not Controller().remove_node("phone")


@pytest.mark.parametrize("before", ["", "phone ssh-ed25519 OLD\n"])
def test_a_node_that_cannot_be_reached_leaves_all_as_it_was(config, monkeypatch, before):
    def unreachable(*_):
        raise UnreachableError("gone")

    monkeypatch.setattr(add_node, "probe", unreachable)
    pinned = config.parent / "known_hosts.d/phone"
    if before:
        pinned.parent.mkdir()
        pinned.write_text(before)
    with pytest.raises(UnreachableError):
        Controller().add_node(PHONE, "phone ssh-ed25519 NEW")
    assert (pinned.read_text() if pinned.exists() else "") == before
    assert not config.exists()
