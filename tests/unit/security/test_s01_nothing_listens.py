"""S1: pages and images never travel over a port that a stranger can reach; nothing listens unless asked for."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
GOLDENS = sorted((ROOT / "tests/goldens").glob("*.json"))
LISTENING = ("--page-server", "--port", "--address", "page-server", "service")
# The places that listen: one address and peer, by certificate, where the owner allows it; a private socket; and for one
# connection of runc's own criu over the loopback (tests/unit/test_page_flow.py: nobody else is heard).
KNOWN = {
    "core/reberth/node/net/tls.py": {"create_server"},
    "core/reberth/node/pages/page_client.py": {"create_server"},
    "core/reberth/node/daemon/loop.py": {"listen"},
}


def words(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [word for part in parts for word in words(part)]


def listening(value: object) -> list[str]:
    """Words that make a tool listen, but for runc's page server in a network namespace that nobody else is in.

    The helper puts its address there (`@pages@`); that nobody reaches it is a live test (test_postcopy_faults.py,
    test_page_server.py). With `--ps-socket` criu listens nowhere: it is given its connection.
    """
    found = words(value)
    return [
        word
        for word, following in zip(found, [*found[1:], ""], strict=True)
        if word.partition("=")[0] in LISTENING
        and (word, following) not in (("--page-server", "@pages@"), ("--page-server", "--ps-socket"))
    ]


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_no_tool_is_told_to_listen(path):
    assert listening(json.loads(path.read_text("utf-8"))) == []


def test_a_planted_page_server_is_seen():
    calls = json.loads((ROOT / "tests/goldens/criu-plain.json").read_text("utf-8"))
    calls[-1][2] = {"argv": ["criu", "restore", "--page-server", "--port", "9000"]}
    assert listening(calls) == ["--page-server", "--port"]


def listeners(text: str) -> set[str]:
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    names = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
    return names & {"listen", "create_server", "serve_forever", "start_server"}


def test_only_these_places_of_the_helper_listen():
    found = {}
    for path in (ROOT / "core/reberth").rglob("*.py"):
        if "testing" not in path.parts and (names := listeners(path.read_text("utf-8"))):
            found[str(path.relative_to(ROOT))] = names
    assert found == KNOWN


def test_a_planted_listener_is_seen():
    assert listeners("import socket\nsocket.create_server(('', 80))\n") == {"create_server"}
