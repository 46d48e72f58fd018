"""Requests and facts on one side, argument lists on the other: a change of either is seen in a file of this folder.

`REBERTH_GOLDENS=write` writes them anew; the diff is what is reviewed.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import reberth_criu
import reberth_local
import reberth_page_server
import reberth_ssh
from reberth.connect import boot, process
from reberth_hooks import Mode, Node, Options, Plan, ReberthError, RefusedError, Round, UsageError, Workload
from reberth_runc import backend as reberth_runc

HERE = Path(__file__).parent
DUMPED = {
    "frozen_ns": 1_000_000_000,
    "held_ns": 1_250_000_000,
    "images_bytes": 9000,
    "pages_bytes": 8192,
    "pids": [7, 8],
    "network_lock": "table inet CRIU-7 {}",
}
PRE_DUMPED = {"bytes": 4096, "seconds": 0.5, "pages_written": 1, "pages_skipped_parent": 9}
RESTORED = {"pid": 7, "tasks": 2, "held_ns": 5}


def compare(name: str, found: Any) -> None:
    path = HERE / f"{name}.json"
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    if os.environ.get("REBERTH_GOLDENS") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path.name} would change"


class Recorder:
    """A shell that writes down what it is asked and answers from a table."""

    def __init__(self, node: Node, calls: list[Any], answers: dict[str, Any]) -> None:
        self.node, self.calls, self.answers = node, calls, answers

    def call(self, op: str, /, *, timeout_s: float | None = 30.0, **args: Any) -> Any:
        self.calls.append([self.node.name, op, args])
        answer = self.answers.get(f"{self.node.name} {op}", self.answers.get(op))
        return answer(**args) if callable(answer) else answer

    def begin(self, op: str, /, *, on_progress: Any = None, **args: Any) -> Any:
        return self.call(op, **args)

    def run(self, argv: list[str], **options: Any) -> Any:
        self.calls.append([self.node.name, "run", {"argv": argv, **options}])
        return SimpleNamespace(code=0, out="", err="")


class Notes(SimpleNamespace):
    """The part of a Move that the phases use."""

    def note(self, key: str, value: Any) -> None:
        self.notes[key] = value

    def recall(self, key: str) -> Any:
        return self.notes.get(key)

    def gather(self, *pending: Any, stall_s: float = 0.0) -> list[Any]:
        return list(pending)


def phases(backend: Any, details: dict[str, Any], answers: dict[str, Any], **more: Any) -> list[Any]:
    """All phases of one move; what each node was asked, in order."""
    calls: list[Any] = []
    table = {"workdir": lambda need_bytes, **_: {"path": "/dev/shm/reberth-r1-images"}, "dump": DUMPED}
    table |= {"restore": RESTORED, "pre_dump": PRE_DUMPED, **answers}
    name = getattr(backend, "name", None) or backend.__name__.removeprefix("reberth_")
    nodes = [Node(n, backends=(name,), options={name: more.get("settings", {})}) for n in ("a", "b")]
    plan = Plan(
        id="r1",
        workload=Workload("a", name, more.get("name", "7")),
        source=nodes[0],
        target=nodes[1],
        target_name=more.get("target_name", more.get("name", "7")),
        mode=more.get("mode", Mode.STOP_AND_COPY),
        why="",
        options=more.get("options", Options()),
        routes={"files": "ssh", **({"memory": "page-server"} if more.get("paged") else {})},
        facts={
            side: {
                name: {"features": {"uffd-noncoop": True}},
                "hello": {"cgroup2": "/sys/fs/cgroup", "mem_available_bytes": 1 << 30},
            }
            for side in ("source", "target")
        },
        details=details,
    )
    source, target = (Recorder(node, calls, table) for node in nodes)
    move = Notes(id="r1", plan=plan, source=source, target=target, notes={})
    backend.reberth_prepare(move)
    for tree in backend.reberth_sync(move) if hasattr(backend, "reberth_sync") else []:
        calls.append(["sync", tree.kind, [tree.path, tree.into, list(tree.pids)]])
    final = Round(more.get("rounds", 0), lazy=more.get("lazy", False))
    for index in range(final.index):
        if more.get("paged"):
            reberth_page_server.reberth_receive(move, Round(index, final=False))
        early = backend.reberth_checkpoint(move, Round(index, final=False))
        calls += [["parcel", p.kind, [p.path, p.into, list(p.pids)]] for p in early.parcels]
    if more.get("paged"):
        reberth_page_server.reberth_receive(move, final)
    got = backend.reberth_checkpoint(move, final)
    calls += [["parcel", p.kind, [p.path, p.into, list(p.pids)]] for p in got.parcels]
    assert (got.frozen_ns, got.held_ns, got.iteration.frozen_us) == (1_000_000_000, 1_250_000_000, 250_000)
    backend.reberth_restore(move, ())
    backend.reberth_commit(move)
    backend.reberth_rollback(move)
    return calls


CRIU = {"pid": 7, "start_ticks": 4711, "need_bytes": 1 << 20, "tcp": [], "memory_bytes": 1 << 20, "tasks": 2}
RUNC = {
    **CRIU,
    "bundle": "/srv/a b/web",
    "cgroup": "/sys/fs/cgroup/web",
    "node_network": False,
    "loopback_up": True,
    "replaces": False,
    "outside": ["/srv/data"],
}
PLANTED = "/srv/a b/web/.reberth-shared-x"
NOT_SHARED = {
    "plant": PLANTED,
    "stats": [None],
    "is_left": {"exists": False, "left": False},
    "read": json.dumps({"init_process_pid": 7, "init_process_start": 4711}),  # runc's record of what moved
}


@pytest.mark.parametrize("tcp", [[], ["tcp-established"], ["tcp-close"]], ids=["plain", "established", "close"])
def test_criu(tcp):
    compare(f"criu-{'-'.join(tcp) or 'plain'}", phases(reberth_criu, {**CRIU, "tcp": tcp}, {}))


MODES = {"post-copy": {"lazy": True}, "pre-copy": {"rounds": 2}, "hybrid": {"rounds": 1, "lazy": True}}


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode):
    compare(f"criu-{mode}", phases(reberth_criu, CRIU, {}, mode=Mode(mode), **MODES[mode]))
    compare(f"runc-{mode}", phases(reberth_runc, RUNC, NOT_SHARED, name="web", mode=Mode(mode), **MODES[mode]))


SENT = {"pages": 2, "holes": 0, "bytes": 8192, "digest": "d"}
THROUGH = {
    "pages_recv": SENT,
    "dump": {**DUMPED, "sent": SENT},
    "pre_dump": {**PRE_DUMPED, "sent": SENT},
}


@pytest.mark.parametrize("rounds", [0, 1], ids=["at once", "in rounds"])
def test_memory_by_page_servers(rounds):
    how = {"paged": True, "rounds": rounds, "mode": Mode.PRE_COPY if rounds else Mode.STOP_AND_COPY}
    compare(f"criu-page-server-{rounds}", phases(reberth_criu, CRIU, THROUGH, **how))
    compare(f"runc-page-server-{rounds}", phases(reberth_runc, RUNC, {**NOT_SHARED, **THROUGH}, name="web", **how))


@pytest.mark.parametrize("what", SENT)
def test_pages_that_differ_on_the_two_nodes_are_never_restored(what):
    came = {**SENT, what: "other"}
    with pytest.raises(ReberthError, match="not those that left the source"):
        phases(reberth_criu, CRIU, {**THROUGH, "pages_recv": came}, paged=True)


def test_runc_in_the_network_of_its_node_reaches_the_helper_by_the_loopback():
    details = {**RUNC, "node_network": True}
    found = phases(reberth_runc, details, {**NOT_SHARED, **THROUGH}, name="web", paged=True)
    assert next(args["through"] for _, op, args in found if op == "dump") == "loopback"


@pytest.mark.parametrize("backend", [reberth_criu, reberth_runc])
@pytest.mark.parametrize("asked", [True, False])
def test_much_memory_is_restored_lazily_unless_that_is_not_wanted(backend, asked):
    answers = {**NOT_SHARED, "dump": {**DUMPED, "pages_bytes": 1 << 30}}
    found = phases(backend, RUNC, answers, name="7", options=Options(lazy_restore=asked))
    restore = next(args for _, op, args in found if op == "restore")
    assert (restore["lazy"], "--lazy-pages" in restore["argv"]) == (asked, asked)


@pytest.mark.parametrize("tcp", [[], ["tcp-established"], ["tcp-close"]], ids=["plain", "established", "close"])
def test_runc(tcp):
    found = phases(reberth_runc, {**RUNC, "tcp": tcp}, NOT_SHARED, name="web")
    compare(f"runc-{'-'.join(tcp) or 'plain'}", found)


def test_runc_with_another_state_directory_and_name():
    found = phases(reberth_runc, RUNC, NOT_SHARED, name="web", target_name="new", settings={"root": "/run/my runc"})
    compare("runc-root-renamed", found)


def test_runc_on_shared_storage():
    def shared(paths):
        return [{"mode": 0o100600} if path == PLANTED else None for path in paths]

    compare("runc-shared", phases(reberth_runc, RUNC, {**NOT_SHARED, "stats": shared}, name="web"))


@pytest.mark.parametrize("start", [4712, None])
def test_runc_deletes_no_new_container_of_the_same_name(start):
    record = json.dumps({"init_process_pid": 7, "init_process_start": start})
    found = phases(reberth_runc, RUNC, {**NOT_SHARED, "read": record}, name="web")
    assert [args for node, op, args in found if (node, op) == ("a", "run")] == []


def test_runc_never_over_a_container_that_came_up_meanwhile():
    def known(paths):
        return [{"mode": 0o40700} if path == "/run/runc/web" else None for path in paths]

    with pytest.raises(RefusedError, match="has come up on the target"):
        phases(reberth_runc, RUNC, {**NOT_SHARED, "stats": known}, name="web")


def test_runc_over_an_old_copy():
    answers = {**NOT_SHARED, "is_left": {"exists": True, "left": True}}
    compare("runc-old-copy", phases(reberth_runc, RUNC, answers, name="web"))


def test_runc_never_over_anything_else():
    with pytest.raises(RefusedError, match="exists on the target"):
        phases(reberth_runc, RUNC, {**NOT_SHARED, "is_left": {"exists": True, "left": False}}, name="web")


def test_runc_in_the_network_of_its_node():
    details = {**RUNC, "node_network": True, "tcp": ["tcp-established"]}
    compare("runc-node-network", phases(reberth_runc, details, NOT_SHARED, name="web"))


# The ways to a node

SSH = {
    "bare": Node("pi1"),
    "address": Node("pi1", address="192.0.2.1"),
    "ipv6": Node("pi1", address="2001:db8::1"),
    "user-port": Node("pi1", options={"ssh": {"user": "ops", "port": 2222}}),
    "identity": Node("pi1", options={"ssh": {"identity": "/home/me/my keys/id"}}),
    "pinned": Node("pi1", options={"ssh": {"known_hosts": "/home/me/known hosts"}}),
    "jump-by-ssh-config": Node("pi1", address="behind", options={"ssh": {"config": "/home/me/ssh config"}}),
    "sudo": Node("pi1", become="sudo"),
    "all": Node(
        "pi1",
        address="192.0.2.1",
        become="sudo",
        options={"ssh": {"user": "ops", "port": "22", "identity": "/i", "known_hosts": "/k", "config": "/c"}},
    ),
    "like-an-option": Node("pi1", address="-oProxyCommand=reboot"),
}
ODD = ["printf", "%s", "a b", "$(id)", "'", '"', "; reboot", "*", "\n", "é", "", "-x"]


@pytest.mark.parametrize("name", SSH)
def test_ssh(name):
    route = reberth_ssh.reberth_connect(SSH[name])
    found = {
        "control": process.route_argv(route, ["true"]),
        "bulk": process.route_argv(route, boot.bulk_argv("/run/reberth/h 1/ctl"), bulk=True)[:-1],
        "become": route.become,
        "hint": route.hint,
    }
    compare(f"ssh-{name}", found)


@pytest.mark.parametrize("name", SSH)
@pytest.mark.parametrize("bulk", [False, True])
def test_the_host_stands_behind_two_dashes_and_the_command_is_one_word(name, bulk):
    route = reberth_ssh.reberth_connect(SSH[name])
    words = process.route_argv(route, ODD, bulk=bulk)
    host = SSH[name].address or SSH[name].name
    assert words[-3:-1] == ["--", host]
    assert shlex.split(words[-1]) == [*route.become, *ODD]
    assert words.count(host) == 1
    for must in ("BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no", "ControlPath=none"):
        assert words[words.index(must) - 1] == "-o"
    assert not any(word.startswith("ProxyCommand") or "accept-new" in word for word in words)


@pytest.mark.parametrize("plugin", [reberth_ssh, reberth_local])
def test_another_way_to_become_root_is_refused(plugin):
    with pytest.raises(UsageError, match="become"):
        plugin.reberth_connect(Node("pi1", become="doas; reboot"))


@pytest.mark.parametrize("port", ["22; reboot", "-1x", "", None])
def test_a_port_is_a_number(port):
    node = Node("pi1", options={"ssh": {"port": port}})
    if port:
        with pytest.raises(UsageError, match="is no number"):
            reberth_ssh.reberth_connect(node)
    else:
        assert "-p" not in reberth_ssh.reberth_connect(node).control


def test_local_needs_no_shell():
    route = reberth_local.reberth_connect(Node("local"))
    assert process.route_argv(route, ODD) == ODD
    route = reberth_local.reberth_connect(Node("local", become="sudo"))
    assert process.route_argv(route, ODD) == ["sudo", "-n", "--", *ODD]


def test_every_golden_has_its_test():
    known = {f"ssh-{name}" for name in SSH} | {f"{b}-{t}" for b in ("criu", "runc") for t in ("plain", "tcp-close")}
    known |= {f"{b}-tcp-established" for b in ("criu", "runc")}
    known |= {f"{b}-{mode}" for b in ("criu", "runc") for mode in MODES}
    known |= {f"{b}-page-server-{rounds}" for b in ("criu", "runc") for rounds in (0, 1)}
    known |= {f"runc-{name}" for name in ("root-renamed", "shared", "old-copy", "node-network")}
    assert {path.stem for path in HERE.glob("*.json")} == known
