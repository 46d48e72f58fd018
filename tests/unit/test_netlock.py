"""Whose one of criu's network locks is, with an nft on PATH that knows three tables."""

from __future__ import annotations

import os
import socket

import pytest

from reberth.node.criu import network_lock, tcp_repair
from reberth.node.runs import run
from reberth.node.system import procs, spawn

# As criu 4.2.1 names them (seen 2026-11-28): the buffer cuts the id off.
MINE = "9a7246d8-fa65-4b5d-a87b-12f36f78c14e"
NAMES = {"CRIU-9a7246d8-fa65-4b5d-a8", "CRIU-7be84d2b-ce33-486a-a8", "CRIU-4711"}
NFT = """#!/bin/sh
case "$*" in
"list tables inet")
  for id in 9a7246d8-fa65-4b5d-a8 7be84d2b-ce33-486a-a8 4711; do echo "table inet CRIU-$id"; done
  echo table inet own ;;
*CRIU-9a7246d8*)
  echo "set conns4 {"
  echo "  elements = { 127.0.0.1 . 5561 . 127.0.0.1 . 60174,"
  echo "               127.0.0.1 . 60174 . 127.0.0.1 . 5561 } }" ;;
*CRIU-7be84d2b*) echo "set conns6 { elements = { fd00::1 . 80 . fd00::2 . 4000 } }" ;;
esac
"""


@pytest.fixture(autouse=True)
def nft(tmp_path, monkeypatch):
    (tmp_path / "nft").write_text(NFT)
    (tmp_path / "nft").chmod(0o755)
    monkeypatch.setattr(spawn, "PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.fixture
def criu_works(monkeypatch):
    me = procs.task(os.getpid())
    monkeypatch.setattr(procs, "all_tasks", lambda: [me._replace(comm="criu")])


def test_only_tables_of_criu_are_known():
    assert network_lock.tables() == NAMES


def test_the_images_tell_which_is_theirs(tmp_path):
    (tmp_path / "inventory.img").write_bytes(b"\x1611XN\x00\x00\x00\x08\x02b\x00j$" + MINE.encode())
    assert network_lock.of_images(str(tmp_path), NAMES) == {"CRIU-9a7246d8-fa65-4b5d-a8"}
    assert network_lock.of_images(str(tmp_path), {"CRIU-4711", "CRIU-"}) == set()


@pytest.mark.parametrize("images", [None, b"\x1611XN\x00\x00\x00\x08\x02"])
def test_images_of_an_older_criu_do_not(images, tmp_path):
    if images is not None:
        (tmp_path / "inventory.img").write_bytes(images)
    assert network_lock.of_images(str(tmp_path), NAMES) == NAMES


@pytest.mark.parametrize(
    ("pair", "name"),
    [
        (("127.0.0.1:5561", "127.0.0.1:60174"), "CRIU-9a7246d8-fa65-4b5d-a8"),
        (("[0000:0000:0000:0000:0000:ffff:7f00:0001]:60174", "127.0.0.1:5561"), "CRIU-9a7246d8-fa65-4b5d-a8"),
        (("[fd00:0000:0000:0000:0000:0000:0000:0001]:80", "[fd00::2]:4000"), "CRIU-7be84d2b-ce33-486a-a8"),
        (("127.0.0.1:5561", "127.0.0.1:60175"), None),
    ],
)
def test_connections_tell_while_a_criu_works(pair, name, criu_works):
    assert network_lock.of_connections(NAMES, {pair}) == ({name} if name else set())


def test_where_no_criu_works_nobody_needs_them(monkeypatch):
    monkeypatch.setattr(procs, "all_tasks", list)
    assert network_lock.of_connections(NAMES, set()) == NAMES


def test_the_connections_of_a_process():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0]:
            here = f"127.0.0.1:{client.getsockname()[1]}"
            found = tcp_repair.connections([os.getpid(), 1 << 22])
    assert {(here, f"127.0.0.1:{port}"), (f"127.0.0.1:{port}", here)} <= found


@pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")
def test_what_other_runs_have_journaled_is_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    for number in (1, 2):
        run.Run.open(f"r{number}", "source", f"criu/{number}").push_undo("always", "nft_delete", name=f"CRIU-{number}")
    run.Run.open("r3", "source", "criu/3").end("moved")
    assert run.locks_of_others("r1") == {"CRIU-2"}
