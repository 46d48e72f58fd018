"""Sockets as the kernel tells them: who is at the other end, what waits, and which addresses the target must have."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from types import SimpleNamespace

import pytest

from reberth.node.net import sockets, unix
from reberth.node.survey import process_tree
from reberth.report.explain import explain
from reberth_hooks import Level, Options
from reberth_hooks.criu.preflight import address_checks, tcp_checks


def inodes(*kept) -> set[str]:
    return {os.readlink(f"/proc/self/fd/{one.fileno()}")[8:-1] for one in kept}


def outside(*kept) -> list[str]:
    return unix.outside(os.getpid(), inodes(*kept))


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "sock"))
        one.listen(8)
        yield one


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
@pytest.mark.parametrize("words", [b"", b"left behind"])
def test_an_end_that_everybody_has_closed_is_no_peer_outside(kind, words):
    kept, other = socket.socketpair(socket.AF_UNIX, kind)
    with kept:
        if words:
            other.send(words)
        assert outside(kept) != []  # the twin: as long as another holds it
        other.close()
        assert outside(kept) == []


def test_a_connection_that_waits_outside_is_outside(listener, tmp_path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "sock"))
        assert outside(client) == [str(tmp_path / "sock")]
        assert outside(client, listener) == []
        client.shutdown(socket.SHUT_RDWR)  # shut, and yet in another's queue
        assert outside(client) == [str(tmp_path / "sock")]


def test_words_in_a_connection_that_waits_are_told(listener, tmp_path, monkeypatch):
    mine, here = os.getpid(), str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(here)
        assert unix.unaccepted(mine, inodes(client, listener)) == []  # CRIU makes it anew
        assert unix.unaccepted(mine, inodes(listener)) == [here]  # its client stays behind
        client.send(b"words")
        assert unix.unaccepted(mine, inodes(client, listener)) == [here]
        accepted = []
        quick = SimpleNamespace(sleep=lambda seconds: accepted.append(listener.accept()[0]))
        monkeypatch.setattr(unix, "time", quick)
        assert unix.unaccepted(mine, inodes(client, listener)) == []  # a server that is only busy
        accepted[0].close()
    assert time.sleep is not quick.sleep


def test_the_twin_for_unix_is_explained():
    line = "Error (criu/sk-unix.c:471): unix: Non-empty write queue on an in-flight socket 0x126a56"
    assert "waits to be accepted" in explain(line).cause


# Addresses of this machine


def held(*kept) -> dict[str, int]:
    return dict.fromkeys(inodes(*kept), 7)


def own_addresses() -> list[str]:
    found = [a for a in sockets.addresses()["addresses"] if not a.startswith(("127.", "::1", "fe80"))]
    if not found:
        pytest.skip("this machine has no address but the loopback's")
    return found


def test_a_socket_is_bound_to_an_address_of_the_machine():
    if os.getuid() != 0:
        pytest.skip("looks into a network namespace")
    for address in own_addresses():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with (
            socket.create_server((address, 0), family=family) as tcp,
            socket.socket(family, socket.SOCK_DGRAM) as udp,
            socket.create_server(("127.0.0.1", 0)) as loopback,
            socket.create_server(("0.0.0.0", 0)) as anywhere,
        ):
            udp.bind((address, 0))
            ports = {"TCP": tcp.getsockname()[1], "UDP": udp.getsockname()[1]}
            _, bound = sockets.local(os.getpid(), held(tcp, udp, loopback, anywhere))
            assert {one["kind"]: one["port"] for one in bound} == ports
            assert {(one["address"], one["pid"], one["connected"]) for one in bound} == {(address, 7, False)}


@pytest.mark.parametrize("there", ["127.0.0.1", "127.9.9.9", "::1", "own"])
def test_a_connection_to_a_process_that_stays_is_told_with_both_ends(there):
    if os.getuid() != 0:
        pytest.skip("looks into a network namespace")
    address = own_addresses()[0] if there == "own" else there
    with contextlib.ExitStack() as kept:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server = kept.enter_context(socket.create_server((address, 0), family=family))
        client = kept.enter_context(socket.create_connection(server.getsockname()[:2]))
        accepted = kept.enter_context(server.accept()[0])
        stay, _ = sockets.local(os.getpid(), held(client))
        assert len(stay) == 1 and stay[0].startswith("process 7: ") and str(server.getsockname()[1]) in stay[0]
        assert sockets.local(os.getpid(), held(client, accepted))[0] == []


SAME = {"namespaces": {"net": "n"}, "helper_namespaces": {"net": "n"}}
BOUND = {"kind": "TCP", "address": "198.18.0.1", "port": 7705, "pid": 9, "connected": False}
LINK = {**BOUND, "kind": "UDP", "address": "fe80::1"}


def target(*addresses: str, nonlocal_bind=()):
    found = {"tcp": [], "abstract": [], "addresses": list(addresses), "nonlocal": list(nonlocal_bind)}
    return SimpleNamespace(node=SimpleNamespace(name="b"), call=lambda op: found)


@pytest.mark.parametrize(
    ("bound", "options", "there", "said"),
    [
        ([BOUND], {}, target("198.18.0.2"), "process 9 TCP 198.18.0.1 port 7705"),
        ([LINK], {}, target("fe80::2"), "process 9 UDP fe80::1 port 7705"),
        ([BOUND], {}, target("198.18.0.1"), ""),
        ([LINK], {}, target("fe80:0:0:0::1"), ""),
        ([BOUND], {"move_address": "198.18.0.1/24"}, target("198.18.0.2"), ""),
        ([BOUND, LINK], {"move_address": "198.18.0.1"}, target("198.18.0.2"), "fe80::1"),
        ([BOUND], {}, target("198.18.0.2", nonlocal_bind=["ipv4"]), ""),
        ([{**BOUND, "connected": True}], {"tcp_close": True}, target("198.18.0.2"), ""),
        ([{**BOUND, "connected": True}], {"tcp_established": True}, target("198.18.0.2"), "198.18.0.1"),
        ([], {}, target("198.18.0.2"), ""),
    ],
)
def test_a_bound_address_exists_on_the_target_or_moves(bound, options, there, said):
    found = list(address_checks({**SAME, "bound": bound}, Options(**options), there))
    assert [check.id for check in found] == (["local-address"] if said else [])
    if said:
        assert said in found[0].reason and "--move-address" in found[0].remedy and found[0].level is Level.FAIL


def test_a_network_of_its_own_has_its_own_addresses():
    facts = {**SAME, "namespaces": {"net": "other"}, "bound": [BOUND]}
    assert list(address_checks(facts, Options(), target())) == []


def test_connections_that_stay_forbid_only_to_keep_them():
    tcp = {"inside": 0, "outside": ["a - b"], "unaccepted": [], "stay": ["process 7: a - b"]}
    for options, ids in (({"tcp_established": True}, ["tcp-local"]), ({"tcp_close": True}, [])):
        found = [c for c in tcp_checks({"tcp": tcp}, Options(**options), "a") if c.level is Level.FAIL]
        assert [check.id for check in found] == ids
        assert all("process 7: a - b" in c.reason and "--tcp-close" in c.remedy for c in found)


# Files


def test_a_symbolic_link_is_compared_as_one(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    wanted = [{"path": str(link), "mode": link.lstat().st_mode, "size": 7, "kind": "open"}]
    assert process_tree.compare_files(None, None, wanted) == []
    link.unlink()
    link.write_text("no link")
    assert "mode" in process_tree.compare_files(None, None, wanted)[0]["problem"]
