"""S3: a node proves who it is by a pinned host key, on every connection; nothing is forwarded, nobody is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reberth.commands import host_key
from reberth_hooks import Node, Route, UntrustedError

GOLDENS = sorted((Path(__file__).parents[2] / "goldens").glob("ssh-*.json"))
MUST = {
    "StrictHostKeyChecking=yes",
    "BatchMode=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "ControlPath=none",
}


def missing(words: list[str]) -> set[str]:
    return MUST - set(words)


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_every_connection_demands_it(path):
    route = json.loads(path.read_text("utf-8"))
    connections = [route[key] for key in ("control", "bulk") if route.get(key)]
    assert connections
    for words in connections:
        assert missing(words) == set()
        assert "StrictHostKeyChecking=no" not in words and "StrictHostKeyChecking=accept-new" not in words
        assert not [word for word in words[words.index("--") + 2 :] if word.startswith("-")]


def test_a_connection_that_lost_one_is_seen():
    words = json.loads(GOLDENS[0].read_text("utf-8"))["control"]
    words[words.index("StrictHostKeyChecking=yes")] = "StrictHostKeyChecking=accept-new"
    assert missing(words) == {"StrictHostKeyChecking=yes"}


SHOWN = host_key.HostKey("a ssh-ed25519 AAAA", "ssh-ed25519", "SHA256:right")
ROUTE = Route(control=("ssh", "--", "a"))


def test_only_the_expected_key_is_pinned(monkeypatch):
    monkeypatch.setattr(host_key, "_settings", lambda route: {"hostname": "a"})
    monkeypatch.setattr(host_key, "_look", lambda route, files, more: host_key.Look(SHOWN, "", ""))
    assert host_key.fetch(Node("a"), ROUTE, "SHA256:right") is SHOWN
    with pytest.raises(UntrustedError) as caught:
        host_key.fetch(Node("a"), ROUTE, "SHA256:wrong")
    assert "SHA256:right" in caught.value.tail


def test_the_look_at_a_key_logs_in_to_nothing_and_believes_only_its_own_file():
    """accept-new stands in this look alone, whose file is thrown away; every connection demands what was pinned."""
    assert "PreferredAuthentications=none" in host_key.LOOK
    assert "VerifyHostKeyDNS=no" in host_key.LOOK and "GlobalKnownHostsFile=none" in host_key.ALONE
