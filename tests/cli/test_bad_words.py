"""Wrong words are refused with a clear error and exit code 2; that needs an inventory and no node."""

from __future__ import annotations

import json

import pytest

from reberth.cli import common

REAL_HOST = common.make_host
INVENTORY = """
[defaults]
[nodes.node1]
address = "192.0.2.1"
backends = ["criu", "runc"]
transports = ["ssh"]
[nodes.node1.ssh]
user = "root"
[nodes.node2]
address = "192.0.2.2"
backends = ["criu", "runc"]
transports = ["ssh"]
[nodes.node2.ssh]
user = "root"
"""
# Source, target, further options -> words of the error.
WORDS = {
    "unknown source node": (["nodeX:web", "node2:"], ["there is no node 'nodeX'", "node1"]),
    "unknown target node": (["node1:web", "node3:"], ["there is no node 'node3'", "node2"]),
    "unknown backend": (["node1:docker/web", "node2:"], ["no backend 'docker'"]),
    "backend nearly right": (["node1:rnc/web", "node2:"], ["did you mean runc"]),
    "unknown transport": (["node1:runc/web", "node2:", "--transport", "pigeon"], ["no transport 'pigeon'"]),
    "a backend as transport": (["node1:runc/web", "node2:", "--transport", "runc"], ["is no transport"]),
    "backend for a node": (["runc:web", "node2:"], ["write runc/web"]),
    "name begins with a dash": (["node1:runc/-rf", "node2:"], ["'-rf' is no workload name"]),
    "node begins with a dash": (["-oProxyCommand=x:web", "node2:"], ["is no node name"]),
    "target begins with a dash": (["node1:runc/web", "-x:"], ["is no node name"]),
    "new name begins with a dash": (["node1:runc/web", "node2:--force"], ["is no workload name"]),
    "spaces": (["node1:runc/my web", "node2:"], ["is no workload name"]),
    "semicolon": (["node1:runc/web;reboot", "node2:"], ["is no workload name"]),
    "command substitution": (["node1:runc/$(reboot)", "node2:"], ["is no workload name"]),
    "newline": (["node1:runc/web\nx", "node2:"], ["is no workload name", "\\n"]),
    "newline in the node": (["node1\n:web", "node2:"], ["is no node name"]),
    "slashes": (["node1:runc/../../etc", "node2:"], ["is no backend name"]),
    "an escape sequence": (["node1:runc/\x1b[2J", "node2:"], ["is no workload name", "\\x1b"]),
    "a very long name": ([f"node1:runc/{'x' * 4000}", "node2:"], ["is no workload name"]),
    "empty name": (["node1:", "node2:"], ["names no workload"]),
    "empty target": (["node1:web", ""], ["target is empty"]),
    "backend in the target": (["node1:web", "node2:runc/web"], ["a target has no backend"]),
    "source equals target": (["node1:web", "node1:"], ["the same node"]),
    "no node in the target": (["web", "other"], ["the same node", "local"]),
    "two backends": (["node1:runc/web", "node2:", "--backend", "criu"], ["--backend says criu"]),
    "unknown mode": (["node1:runc/web", "node2:", "--mode", "warp"], ["warp"]),
}
# Found after the connections were begun, which are made while the words are looked at.
LATE = {
    *("unknown target node", "unknown backend", "backend nearly right", "unknown transport", "a backend as transport"),
    *("source equals target", "no node in the target", "two backends"),
}
KEYS = {
    "adress": (f'[nodes.other]\nadress = "x"\n{INVENTORY}', ["'adress'", "address"]),
    "backend": (f'[nodes.other]\nbackend = "x"\n{INVENTORY}', ["'backend'", "backends"]),
    "transport": (f'[nodes.other]\ntransport = "x"\n{INVENTORY}', ["'transport'", "transports"]),
    "max_downtme": (
        INVENTORY.replace("[defaults]", '[defaults]\nmax_downtme = "1s"'),
        ["'max_downtme'", "max_downtime"],
    ),
    "usr": (INVENTORY.replace('user = "root"', 'usr = "root"', 1), ["'usr'", "user"]),
}


@pytest.fixture
def nodes(world, monkeypatch):
    """Write an inventory, and put programs on PATH that note every call and fail."""
    monkeypatch.setattr(common, "make_host", REAL_HOST)
    called, programs = world.tmp / "called", world.tmp / "bin"
    programs.mkdir()
    for name in ("ssh", "ssh-keyscan", "scp", "python3", "criu", "runc", "sudo", "sh"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{called}\nexit 99\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))

    def write(text=INVENTORY):
        path = world.tmp / "config/config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return world

    return write


def started(world):
    """What was started, one call a line."""
    called = world.tmp / "called"
    return called.read_text() if called.exists() else ""


def refused(result, words):
    """The exit code, each word somewhere in the error, and neither a crash nor a raw control character."""
    assert result.exit_code == 2, result.output
    error = json.loads(result.stdout)["error"] if result.stdout else {}
    said = "\n".join([str(error.get("message", "")), str(error.get("hint", "")), result.stderr])
    assert [word for word in words if word not in said] == [], said
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


@pytest.mark.parametrize("name", WORDS)
def test_wrong_words(name, world, nodes):
    (source, target, *options), words = WORDS[name]
    refused(nodes().run("move", *options, "--json", "--", source, target), words)
    assert name in LATE or started(world) == ""


def test_without_a_double_dash_a_dash_is_an_option(world, nodes):
    refused(nodes().run("move", "-oProxyCommand=x", "node2:", "--json"), [])
    assert started(world) == ""


@pytest.mark.parametrize("key", KEYS)
def test_an_unknown_key_names_the_nearest(key, world, nodes):
    text, words = KEYS[key]
    refused(nodes(text).run("ls", "--json"), words)
    assert started(world) == ""


def test_good_words_would_ask_the_node(world, nodes):
    """The twin: the same command with nothing wrong in it starts ssh, and the trap notes it."""
    result = nodes().run("move", "--json", "--", "node1:runc/web", "node2:")
    assert result.exit_code == 13, result.output
    assert "ssh " in started(world)
