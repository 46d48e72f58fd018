"""The moving address: what is refused, who is called when, and the way back."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import reberth_address
from reberth.config.options import make_options
from reberth.node.errors import OpError
from reberth.node.net import address, netlink
from reberth.node.runs import run
from reberth.node.runs.run import Run
from reberth.node.runs.source import Source
from reberth.node.runs.target import Target
from reberth.plugin.catalog import Catalog
from reberth.plugin.stage import Stage
from reberth_hooks import (
    Channel,
    Checkpoint,
    Declaration,
    HelperError,
    Iteration,
    Level,
    Mode,
    Node,
    Options,
    Plan,
    RefusedError,
    Restored,
    Role,
    Round,
    Survey,
    UsageError,
    Workload,
    hookimpl,
)

WORDS = "02:72:62:c6:33:65"
V4, V6 = "198.51.100.100", "2001:db8::64"
PLACE = {"address": V4, "prefix_len": 24, "ifname": "eth0", "broadcast": "198.51.100.255", "label": "eth0:w"}

# What may leave its interface


def place(text: str, **more):
    found = {"address": text, "peer": "", "prefix_len": 24, "ifname": "eth0", "flags": 0, "valid_s": netlink.FOREVER}
    return {**found, "family": netlink.family_of(text), "preferred_s": netlink.FOREVER, **more}


@pytest.mark.parametrize(
    ("here", "others", "reason"),
    [
        (place(V4, flags=1), [place("198.51.100.1")], ""),
        (place(V4), [place("198.51.100.1")], ""),
        (place(V4), [place("198.51.100.1", flags=1)], "the kernel would remove 198.51.100.1"),
        (place(V4, prefix_len=32), [place("198.51.100.1", flags=1)], ""),
        (place(V4), [], "no other address"),
        (place(V4), [place("198.51.100.1", ifname="eth1")], "no other address"),
        (place(V6), [], ""),
        (place(V4, flags=1, valid_s=3600), [place("198.51.100.1")], "leased"),
        (place(V4, flags=1, ifname="tun0"), [place("198.51.100.1", ifname="tun0")], "no Ethernet"),
        (place(V4, flags=1, peer="198.51.100.9"), [place("198.51.100.1")], "no Ethernet"),
    ],
)
def test_what_may_not_leave_its_interface(here, others, reason, monkeypatch):
    monkeypatch.setattr(netlink, "addresses", lambda: [here, *others])
    monkeypatch.setattr(netlink, "routes_from", lambda _: 0)
    monkeypatch.setattr(address, "_promotes", lambda _: False)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    found = address._problems(here, {"eth0": {"kind": 1}, "eth1": {"kind": 1}, "tun0": {"kind": 65534}})
    assert [reason in p["reason"] and bool(p["remedy"]) for p in found] == [True] * bool(reason), found
    monkeypatch.setattr(address, "_promotes", lambda _: True)
    monkeypatch.setattr(netlink, "routes_from", lambda _: 2)
    monkeypatch.setenv("SSH_CONNECTION", f"192.0.2.1 5022 {here['address']} 22")
    found = address._problems(here, {"eth0": {"kind": 1}, "tun0": {"kind": 65534}})
    assert {"routes", "the ssh"} <= {p["reason"].partition(" use")[0][:7].strip() for p in found}


# The way back


@pytest.fixture
def done(tmp_path, monkeypatch):
    """A state directory, and a list of what happened in which order."""
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    happened = []
    for do in ("address_add", "address_del", "address_announce", "rmtree"):
        monkeypatch.setitem(run.UNDO, do, lambda record, do=do: happened.append((do, record.get("address"))))
    monkeypatch.setattr(netlink, "find", lambda _: None)
    monkeypatch.setattr(netlink, "add", lambda p: happened.append(("put", p["address"])))
    monkeypatch.setattr(netlink, "delete", lambda p: happened.append(("taken", p["address"])))
    return happened


def job(happened, waiting):
    return SimpleNamespace(
        waiting=waiting,
        answer=lambda word: happened.append(("answer", word)),
        wait_end=lambda seconds: 1,
        stop=lambda: None,
        errors=lambda: "",
        holds=lambda action: action == waiting,
        fences=waiting == "post-dump",
        above=os.getpid(),
    )


def test_the_source_has_it_again_before_the_tool_is_let_go(done):
    end = Source(Run.open("r1", "source", "criu/7"))
    daemon = SimpleNamespace(end=end)
    with pytest.raises(OpError, match="only while its workload is held"):
        address.address_del(daemon, None, PLACE)
    end.job = job(done, "post-dump")
    end.run.push_undo("always", "rmtree", path="/x")
    address.address_del(daemon, None, PLACE)
    records = [(r["event"], r.get("do")) for r in end.run.journal.records]
    assert records[-1] == ("undo", "address_add") and done == [("taken", V4)]
    assert (
        Path(end.run.dir, "back.ip").read_text() == "address add 198.51.100.100/24 dev eth0 broadcast 198.51.100.255\n"
    )
    end.release("resume")
    assert done[1:] == [("address_add", V4), ("answer", "veto"), ("rmtree", None)]
    with pytest.raises(OpError, match="voted"):
        address.address_del(daemon, None, PLACE)


def test_a_source_that_is_given_up_does_not_get_it_back(done):
    end = Source(Run.open("r1", "source", "criu/7"))
    end.job = job(done, "post-dump")
    end.job.work_dir = "/nowhere"
    address.address_del(SimpleNamespace(end=end), None, PLACE)
    end.run.cast_vote("READY")
    end.release("kill")
    assert ("address_add", V4) not in done


def test_the_target_loses_it_before_the_tool_is_answered(done):
    end = Target(Run.open("r1", "target", "criu/7"))
    daemon = SimpleNamespace(end=end)
    address.address_add(daemon, None, PLACE)
    assert [r["do"] for r in end.run.journal.records if r["event"] == "undo"] == ["address_del", "address_announce"]
    assert Path(end.run.dir, "back.ip").read_text() == "address del 198.51.100.100/24 dev eth0\n"
    end.job = job(done, "post-restore")
    end.decide("ABORT")
    assert done == [("put", V4), ("address_del", V4), ("answer", "veto")]
    with pytest.raises(OpError, match="verdict"):
        address.address_add(daemon, None, PLACE)


def test_an_address_that_is_there_already_is_not_ours_to_remove(done, monkeypatch):
    end = Target(Run.open("r1", "target", "criu/7"))
    monkeypatch.setattr(netlink, "find", lambda _: place(V4))
    with pytest.raises(OpError, match="already"):
        address.address_add(SimpleNamespace(end=end), None, PLACE)
    end.decide("ABORT")
    assert done == []


def test_it_is_announced_before_the_copy_is_thawed(done, monkeypatch, tmp_path):
    from reberth.node.freeze import cgroup

    end = Target(Run.open("r1", "target", "criu/7"))
    address.address_add(SimpleNamespace(end=end), None, PLACE)
    end.cgroup = str(tmp_path)
    monkeypatch.setattr(cgroup, "is_asked_to_freeze", lambda path: True)
    monkeypatch.setattr(cgroup, "thaw", lambda path: done.append(("thaw", None)))
    end.run.journal.write("landed")
    end.run.decide("PERMIT")
    end.decide("PERMIT")
    assert done == [("put", V4), ("address_announce", V4), ("thaw", None)]


def test_the_roles_do_not_mix(done):
    source, target = Source(Run.open("r1", "source", "criu/7")), Target(Run.open("r2", "target", "criu/8"))
    for op, end in ((address.address_del, target), (address.address_add, source), (address.address_add, None)):
        with pytest.raises(OpError, match="this node is not"):
            op(SimpleNamespace(end=end), None, PLACE)
    assert done == []


# The wrapper, around a backend of fakes

ROUTE = {"ifname": "eth1", "gateway": False, "local": False, "kind": 1, "mac": "02:00:00:00:00:02"}
HERE = {"here": {**place(V4), "scope": 0, "broadcast": "", "label": ""}, "problems": [], "route": None, "macs": [WORDS]}
THERE = {"here": None, "problems": [], "route": ROUTE, "macs": []}


def backend(calls):
    """A backend that writes down when it is called."""
    module = ModuleType("fake_backend")
    answers = {
        "survey": lambda: Survey((), {"own": 1}),
        "prepare": lambda: True,
        "checkpoint": lambda: Checkpoint((), Iteration(0)),
        "restore": lambda: Restored("7", 7),
        "commit": lambda: True,
        "rollback": lambda: True,
        "list": list,
        "probe": dict,
    }
    for hook, answer in answers.items():

        def call(hook=hook, answer=answer):
            calls.append(hook)
            return answer()

        setattr(module, f"reberth_{hook}", hookimpl(lambda call=call: call()))
    said = Declaration("fake", frozenset({Role.BACKEND}), modes=frozenset({Mode.STOP_AND_COPY}))
    module.reberth_describe = hookimpl(lambda: said)
    return module


class End:
    """A node's shell that answers what it is told and writes down what it was asked."""

    def __init__(self, node, calls, **answers):
        self.node, self.calls, self.answers = node, calls, answers

    def call(self, op, **args):
        self.calls.append((self.node.name, op, args.get("address") or args.get("place", {}).get("ifname")))
        answer = self.answers.get(op)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def scene():
    calls = []
    nodes = [Node(name, backends=("criu",), wrappers=("address",)) for name in ("a", "b")]
    stage = Stage(Catalog(extra={"criu": backend(calls), "address": reberth_address}, environ={"REBERTH_PLUGINS": ""}))
    source = End(nodes[0], calls, address_find=HERE)
    target = End(nodes[1], calls, address_find=THERE, address_probe="")
    workload = Workload("a", "criu", "7")

    def survey(**options):
        return stage.survey("criu", workload, "7", source, target, {}, Options(**options))

    def move(details, **options):
        mode, routes = Mode.STOP_AND_COPY, {Channel.FILES: "ssh"}
        plan = Plan("r1", workload, *nodes, "7", mode, "", Options(**options), routes, details=details)
        told = lambda kind, text="", **data: calls.append((kind, text))  # noqa: E731
        return SimpleNamespace(id="r1", plan=plan, source=source, target=target, emit=told)

    return SimpleNamespace(calls=calls, stage=stage, source=source, target=target, survey=survey, move=move)


def test_the_order_of_wrapper_and_phases(scene):
    found = scene.survey(move_address=V4)
    assert [c.level for c in found.checks] == [Level.OK] * 3 and found.details["own"] == 1
    places = found.details["move_address"]
    assert (places["source"]["ifname"], places["target"]["ifname"]) == ("eth0", "eth1")
    move = scene.move(found.details, move_address=V4)
    scene.calls.clear()
    scene.stage.prepare(move)
    scene.stage.checkpoint(move, Round(0, final=False))
    assert scene.calls == ["prepare", "checkpoint"]
    scene.calls.clear()
    scene.stage.checkpoint(move, Round(1))
    scene.stage.restore(move, ())
    scene.stage.commit(move)
    assert scene.calls == [
        "checkpoint",
        ("a", "address_del", "eth0"),
        ("b", "address_add", "eth1"),
        "restore",
        "commit",
        ("b", "address_announce", V4),
    ]
    scene.calls.clear()
    scene.stage.rollback(move)
    assert scene.calls == ["rollback", ("a", "address_announce", V4)]


def test_a_warning_when_it_is_not_where_it_should_be(scene):
    move = scene.move(scene.survey(move_address=V4).details, move_address=V4)
    scene.source.answers["address_announce"] = HelperError("not there")
    scene.calls.clear()
    scene.stage.rollback(move)
    assert scene.calls[-1] == ("warning", f"not there; on node a: ip address add {V4}/24 dev eth0")


def test_nothing_is_done_unless_it_is_asked_for(scene):
    details = scene.survey().details
    move = scene.move(details)
    for phase in (scene.stage.prepare, scene.stage.commit, scene.stage.rollback):
        phase(move)
    scene.stage.checkpoint(move, Round(0))
    scene.stage.restore(move, ())
    assert all(isinstance(call, str) for call in scene.calls) and details == {"own": 1}


@pytest.mark.parametrize(
    ("source", "target", "probe", "word", "id"),
    [
        ({"here": None}, {}, "", "on no interface", "address"),
        ({"problems": [{"reason": "r1", "remedy": "r2"}]}, {}, "", "r1", "address"),
        ({}, {"here": place(V4)}, "", "already", "address"),
        ({}, {"route": {**ROUTE, "local": True}}, "", "already", "address"),
        ({}, {"route": None}, "", "no interface is in the subnet", "address"),
        ({}, {"route": {**ROUTE, "gateway": True}}, "", "no interface is in the subnet", "address"),
        ({}, {"route": {**ROUTE, "kind": 65534}}, "", "no Ethernet", "address"),
        ({}, {}, "02:00:00:00:00:99", "in use on the network of eth1, by 02:00:00:00:00:99", "address-free"),
    ],
)
def test_what_is_refused(scene, source, target, probe, word, id):
    scene.source.answers["address_find"] = {**HERE, **source}
    scene.target.answers.update(address_find={**THERE, **target}, address_probe=probe)
    found = scene.survey(move_address=V4)
    failed = [c for c in found.checks if c.level is Level.FAIL]
    assert [c.id for c in failed] == [id] and word in failed[0].reason and failed[0].remedy
    if id == "address":  # skipped or not: without a place on both nodes it cannot be done
        assert "move_address" not in found.details
        with pytest.raises(RefusedError, match="cannot move"):
            scene.stage.prepare(scene.move(found.details, move_address=V4))


def test_the_prefix_on_the_target_may_be_another(scene):
    assert scene.survey(move_address=f"{V4}/32").details["move_address"]["target"]["prefix_len"] == 32
    assert scene.survey(move_address=V4).details["move_address"]["target"]["prefix_len"] == 24


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("198.51.100.5", "198.51.100.5"),
        ("198.51.100.5/24", "198.51.100.5/24"),
        ("2001:DB8:0::5", "2001:db8::5"),
        ("2001:db8::5/64", "2001:db8::5/64"),
        ("none", ""),
    ],
)
def test_addresses_are_read(word, read):
    assert make_options({}, {"move_address": word}).move_address == read


@pytest.mark.parametrize("word", ["198.51.100", "web", "224.0.0.1", "127.0.0.1", "fe80::1", "0.0.0.0", "1.2.3.4/33"])
def test_what_is_no_address_is_a_wrong_word(word):
    with pytest.raises(UsageError, match="--move-address"):
        make_options({}, {"move_address": word})


def test_a_node_without_the_wrapper_is_named_with_the_command(world):
    world.nodes["pi1"] = Node("pi1", backends=("runc",), transports=("ssh",), wrappers=("address",))
    world.modules["address"] = reberth_address
    with pytest.raises(Exception, match="address is not enabled on node pi2") as caught:
        world.plan("pi1:runc/web", "pi2:", move_address=V4)
    assert caught.value.exit_code == 14 and caught.value.hint == "reberth node enable pi2 address"
    assert world.reached == []
