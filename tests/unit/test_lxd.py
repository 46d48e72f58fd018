"""Backend lxd, the parts that need no daemon: keys, requests, checks, the client's command line."""

from __future__ import annotations

import json
import subprocess

import pytest

from reberth.complete import client as complete
from reberth_hooks import Level, Mode, Options, UsageError, Workload
from reberth_lxd import dispatch
from reberth_lxd.api import keys, landing
from reberth_lxd.api.explain import KNOWN, explain
from reberth_lxd.api.request import for_source, for_target
from reberth_lxd.client import native, shim
from reberth_lxd.held import checks

K, ROUNDS, G = keys.KEY, keys.ITERATIONS, keys.GOAL


@pytest.mark.parametrize(
    ("options", "config", "soft_dirty", "expected"),
    [
        (Options(), {}, True, {K: "true", ROUNDS: "19", G: "70"}),
        (Options(), {}, False, {K: "false"}),
        (Options(), {K: "false"}, True, {K: "false"}),
        (Options(), {K: "true"}, False, {K: "false"}),
        (Options(), {K: "true", ROUNDS: "4", G: "80"}, True, {K: "true", ROUNDS: "7", G: "80"}),
        (
            Options(iterations=5, given=("iterations",)),
            {K: "true", ROUNDS: "4"},
            True,
            {K: "true", ROUNDS: "9", G: "70"},
        ),
        (Options(iterations=6), {K: "true", ROUNDS: "4"}, True, {K: "true", ROUNDS: "7", G: "70"}),
        (Options(iterations=6, goal=50), {K: "true"}, True, {K: "true", ROUNDS: "11", G: "50"}),
        (Options(goal=90, given=("goal",)), {}, True, {K: "true", ROUNDS: "19", G: "90"}),
        (Options(mode=Mode.STOP_AND_COPY), {K: "true"}, True, {K: "false"}),
        (Options(mode=Mode.PRE_COPY), {K: "false"}, True, {K: "true", ROUNDS: "19", G: "70"}),
        (Options(iterations=999, given=("iterations",)), {K: "true"}, True, {K: "true", ROUNDS: "999", G: "70"}),
        (Options(), {K: "true", ROUNDS: "0"}, True, {K: "true", ROUNDS: "1", G: "70"}),
    ],
)
def test_whose_word_counts(options, config, soft_dirty, expected):
    """Option, the instance's keys, the configuration, 10 and 70; the daemon counts each round twice."""
    never_twice = {"boot.autostart": "false"}
    assert keys.wanted(options, config, soft_dirty).to_set() == {**expected, **never_twice}


def test_the_daemon_makes_as_many_rounds_as_were_asked_for():
    """Its loop, as its source has it: the counter is stepped twice a round, and the round at the limit is the last."""
    for rounds in range(1, 60):
        limit, counter, made = int(keys.Wanted(True, rounds, 70, "").to_set()[ROUNDS]), 0, 0
        while True:
            made, counter = made + 1, counter + 1
            if counter >= limit:
                break
            counter += 1
        assert made == rounds


def test_the_reason_names_the_keys_and_what_the_daemon_is_told():
    config = {K: "true", f"{K}.iterations": "4", f"{K}.goal": "80"}
    why = keys.wanted(Options(), config, True).why
    assert f"{K} is true; at most 4 rounds ({K}.iterations, 7 for the daemon)" in why
    assert why.endswith(f"more than 80 % are in sync ({K}.goal)")
    assert "rounds" not in keys.wanted(Options(), {K: "false"}, True).why


@pytest.mark.parametrize(
    ("rounds", "why"),
    [([], ""), ([(100, 0), (29, 71)], "71 % in sync"), ([(100, 0), (30, 70)], "2 of at most 4"), ([(0, 0)], "1 of")],
)
def test_why_the_daemon_went_no_further_round(rounds, why):
    assert keys.why_stopped({"goal": 70, "iterations": 4}, rounds).startswith(why)


def test_a_policy_that_the_daemons_do_not_have_is_refused():
    asked = Options(policy="fixed", given=("policy",))
    with pytest.raises(UsageError, match="--policy fixed"):
        dispatch.reberth_survey(Workload("a", "lxd", "c1"), "c1", None, None, {}, asked)


INSTANCE = {
    "name": "c1",
    "architecture": "x86_64",
    "profiles": ["default"],
    "devices": {"eth0": {"type": "nic"}},
    "ephemeral": True,
    "description": "",
    "stateful": False,
    "config": {
        K: "false",
        "volatile.base_image": "abc",
        "volatile.eth0.hwaddr": "00:16:3e:00:00:01",
        "volatile.last_state.power": "RUNNING",
        "volatile.idmap.next": "[]",
        "user.x": "y",
    },
}


def test_the_requests_say_live_at_both_ends():
    offer = for_source("c1")
    assert offer["live"] is True and offer["migration"] is True
    taken = for_target(
        INSTANCE, "https://h:8443/1.0/operations/1", "CERT", {"control": "s"}, {K: "true", ROUNDS: "", G: ""}
    )
    assert taken["source"]["live"] is True and taken["source"]["certificate"] == "CERT"
    assert taken["source"]["base-image"] == "abc"
    assert (taken["profiles"], taken["ephemeral"], taken["type"]) == (["default"], True, "container")
    kept = {K: "true", "volatile.base_image": "abc", "volatile.eth0.hwaddr": "00:16:3e:00:00:01", "user.x": "y"}
    assert taken["config"] == kept  # the keys as they were before this move set them; what is local stays behind


@pytest.mark.parametrize(
    ("server", "version", "refused"),
    [
        ("lxd", "4.0.9", False),
        ("lxd", "5.0.2", False),
        ("lxd", "5.21.3", False),
        ("lxd", "6.5", False),
        ("lxd", "6.6", True),
        ("lxd", "7.1", True),
        ("incus", "6.0.4", False),
        ("incus", "7.3.0", False),
    ],
)
def test_emulated_version_gate(server, version, refused):
    assert bool(checks.version_gate(server, version)) is refused


FACTS = {
    "server": "lxd",
    "version": "5.0.2",
    "liblxc": "6.0.4",
    "addresses": ["192.0.2.1:8443"],
    "apparmor": True,
    "criu_wrapper": False,
    "soft_dirty": True,
    "idmapped_off": False,
    "unified": True,
}
SHAPE = {
    "name": "c1",
    "expanded_config": {"raw.lxc": "lxc.console.path = none", "security.privileged": "true"},
}


def failing(found):
    found = list(found)
    assert all(check.remedy for check in found if check.level is Level.FAIL)
    return {check.id for check in found if check.level is Level.FAIL}


@pytest.mark.parametrize(
    ("here", "there", "precopy", "expected"),
    [
        ({}, {}, True, set()),
        ({}, {"server": "incus"}, False, {"lxd-kind"}),
        ({}, {"apparmor": False}, False, {"apparmor"}),
        ({}, {"apparmor": False, "criu_wrapper": True}, False, set()),
        ({"soft_dirty": False}, {}, True, {"soft-dirty"}),
        ({"soft_dirty": False}, {}, False, set()),
    ],
)
def test_what_is_said_of_two_daemons(here, there, precopy, expected):
    assert failing(checks.daemons({**FACTS, **here}, {**FACTS, **there}, "a", "b", precopy)) == expected


@pytest.mark.parametrize(
    ("config", "facts", "comm", "restored", "expected"),
    [
        ({}, {}, "init", False, set()),
        ({"raw.lxc": ""}, {}, "init", False, {"console"}),
        ({}, {}, "systemd", False, {"init"}),
        ({"security.nesting": "true"}, {}, "init", False, {"nesting"}),
        ({"security.privileged": "false"}, {}, "init", False, {"id-map"}),
        ({"security.privileged": "false"}, {"idmapped_off": True}, "init", False, set()),
        ({}, {}, "init", True, {"dumped-before"}),
        ({}, {"unified": False}, "init", True, set()),
        ({}, {"liblxc": "7.1.0"}, "init", True, set()),
    ],
)
def test_what_is_said_of_the_container(config, facts, comm, restored, expected):
    shape = {**SHAPE, "expanded_config": {**SHAPE["expanded_config"], **config}}
    facts = {**FACTS, **facts}
    assert failing(checks.shape(shape, facts, facts, comm, restored, "a")) == expected


class Pools:
    """A daemon that has one pool of a kind."""

    def __init__(self, driver):
        self.driver = driver

    def get(self, *path):
        return {"driver": self.driver} if self.driver else None


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ("dir", "dir", set()),
        ("lvm", "lvm", set()),
        ("zfs", "dir", set()),
        ("zfs", "zfs", {"storage"}),
        ("btrfs", "btrfs", {"storage"}),
        ("ceph", "ceph", {"storage"}),
        ("dir", "", {"pool"}),
    ],
)
def test_pools_that_would_lose_writes_are_refused(here, there, expected):
    root = {"root": {"type": "disk", "path": "/", "pool": "default"}}
    instance = {"expanded_devices": root, "devices": root, "profiles": []}
    assert failing(checks.storage(instance, Pools(here), Pools(there), "b")) == expected


def test_the_name_stays_and_must_be_free():
    assert failing(checks.renamed("c1", "c1", "b")) == set()
    assert failing(checks.renamed("c1", "c2", "b")) == {"rename"}
    assert failing([landing.name_free("c1", None, [], "", "b")]) == set()
    assert failing([landing.name_free("c1", {"status": "Stopped"}, [], "", "b")]) == {"name-free"}


def test_each_known_word_is_explained_and_an_unknown_one_is_told():
    for words, cause, _ in KNOWN:
        assert explain(f"x\n(00.1) Error: {words} y")[0] == cause
    assert explain("first\nlast word\n")[0] == "last word"
    assert explain("")[0] == "no reason was given"


# The client's command line


@pytest.mark.parametrize("option", native.OPTIONS, ids=lambda option: option.name)
def test_each_native_option_is_honoured_or_refused_by_name(option):
    words = [f"--{option.name}", *(["value"] if option.value else [])]
    found = native.parse(["c1", *words, "n2:", "--incremental-memory"])
    assert found.places == ["c1", "n2:"] and option.name in found.native
    if option.beside == native.NATIVE:
        assert found.wants_native
    elif option.beside == native.REFUSED:
        assert [text for text in found.refused() if text.startswith(f"--{option.name}:")]
        with pytest.raises(UsageError, match=f"--{option.name}"):
            shim.decide("lxc", ["c1", *words, "n2:", "--incremental-memory"], client({}))
    else:
        assert found.refused() == []
    if option.short:
        short = [f"-{option.short}", *(["value"] if option.value else [])]
        assert native.parse(short).native == {option.name: "value" if option.value else ""}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-qv", "c1"], {"quiet": "", "verbose": ""}),
        (["-spool"], {"storage": "pool"}),
        (["-s=pool"], {"storage": "pool"}),
        (["--storage=pool"], {"storage": "pool"}),
        (["-c", "a=b"], {"config": "a=b"}),
    ],
)
def test_the_forms_of_an_option(words, expected):
    assert native.parse(words).native == expected


def test_after_two_dashes_all_are_places():
    assert native.parse(["--", "--goal", "x"]).places == ["--goal", "x"]


REMOTES = {"local": {"Addr": "unix://"}, "n1": {"Addr": "https://n1:8443"}, "n2": {"Addr": "https://n2:8443"}}


def client(config, status=103, kind="container", default="local"):
    """The native client as far as the shim asks it; without a `default` it is too old to tell its default remote."""

    def run(argv):
        if argv[1:3] == ["remote", "list"]:
            return json.dumps(REMOTES)
        if argv[1:3] == ["remote", "get-default"]:
            if not default:
                raise subprocess.CalledProcessError(1, argv)
            return f"{default}\n"
        assert argv[1] == "query"
        return json.dumps({"type": kind, "status_code": status, "expanded_config": config})

    return run


TRUE = {K: "true"}


@pytest.mark.parametrize(
    ("words", "run", "expected"),
    [
        (["c1", "n2:"], client({}), None),
        (["c1", "n2:"], client({K: "false"}), None),
        (["c1", "n2:"], client(TRUE, status=102), None),
        (["c1", "n2:"], client(TRUE, kind="virtual-machine"), None),
        (["c1", "c2"], client(TRUE), None),
        (["c1/snap", "c1/other"], client(TRUE), None),
        (["c1", "n2:", "--native"], client(TRUE), None),
        (["c1", "n2:", "--help"], client(TRUE), None),
        (["c1", "n2:", "--stateless"], client(TRUE), None),
        (["c1", "n2:other"], client(TRUE), None),
        (["c1", "n2:"], client(TRUE), ["local:c1", "n2:"]),
        (["c1", "n2:c1"], client(TRUE), ["local:c1", "n2:"]),
        (["c1", "n2:c1"], client(TRUE, default="n1"), ["n1:c1", "n2:"]),
        (["c1", "n2:c1"], client(TRUE, default=""), ["local:c1", "n2:"]),
        (["n1:c1", "n2:", "-q"], client(TRUE), ["--quiet", "n1:c1", "n2:"]),
        (
            ["c1", "n2:", "--incremental-memory", "--iterations", "5", "--goal", "80"],
            client({}),
            ["--iterations", "5", "--goal", "80", "--mode", "pre-copy", "local:c1", "n2:"],
        ),
        *(
            (["c1", "n2:", "--mode", way], client(TRUE), ["--lxd-mode", way, *beside, "local:c1", "n2:"])
            for way, beside in (("pull", []), ("push", []), ("relay", ["--remotes", "lxc"]))
        ),
    ],
)
def test_when_the_shim_takes_over(words, run, expected):
    found = shim.decide("lxc", words, run)
    if expected is None:
        assert found is None
    else:
        ours = [word for word in found if word not in ("--backend", "lxd", "--")]
        assert ours == ["move", *expected]


@pytest.mark.parametrize(
    ("known", "beside"), [({"local", "n2"}, False), ({"local"}, True), ({"local", "n1"}, True), (None, False)]
)
def test_remotes_that_are_no_nodes_are_taken_from_the_client(known, beside):
    found = shim.decide("lxc", ["c1", "n2:"], client(TRUE), lambda: known)
    assert ("--remotes lxc" in " ".join(found)) is beside


@pytest.mark.parametrize(
    "words",
    [
        ["c1", "c2", "--goal", "1"],
        ["c1", "n2:c2", "--goal", "1"],
        ["c1/snap", "n2:", "--goal", "1"],
        ["c1", "unknown:", "--goal", "1"],
        ["c1", "n2:", "--gaol", "1"],
        ["c1", "n2:", "--goal"],
        ["c1", "n2:", "--native", "--goal", "1"],
        ["c1", "n2:", "--incremental-memory", "--native"],
    ],
)
def test_what_is_refused_before_anything_is_touched(words):
    with pytest.raises(UsageError):
        shim.decide("lxc", words, client({}))


def test_aloud_is_an_option_of_reberth_itself():
    """`--debug` is none of `reberth move`, so it stands before that word."""
    found = shim.decide("lxc", ["c1", "n2:", "--debug", "--goal", "1"], client({}))
    assert found == ["--debug", "move", "--goal", "1", "--backend", "lxd", "--", "local:c1", "n2:"]


def test_the_tab_key_offers_what_the_shim_takes():
    assert list(complete.OURS) == [f"--{option.name}" for option in native.OURS]
    assert list(complete.WITH_VALUE) == [f"--{option.name}" for option in native.OURS if option.value]
