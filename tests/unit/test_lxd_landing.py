"""What the target's daemon will decide, asked beforehand: of two played daemons, and of documents."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from reberth.config.request import Request
from reberth_hooks import HelperError, Level, Options, UsageError, Workload

pytest.importorskip("pylxd", reason="pylxd is not installed")
import test_lxd_alone
from test_lxd_alone import HERE, THERE, host, move, where

from reberth_lxd.api import landing, rendezvous, wanted
from reberth_lxd.held import checks, phases

world = test_lxd_alone.world
REFUSED = 'Failed to connect to LXD server "{}": connect: connection refused'
GOOD = {"status_code": 400, "err": "Failed getting remote image info: Image not found"}


def plan(**own):
    with host() as one:
        return one.plan(Request(f"{HERE}:c1", f"{THERE}:", Options(backend_args=own)))


def check(found, id):
    return next(one for one in found.checks if one.id == id)


def busy(words, name="c1", project="", code=103):
    url = f"/1.0/instances/{name}" + (f"?project={project}" if project else "")
    return {"status_code": code, "err": "", "description": words, "resources": {"instances": [url]}}


# The trial


def test_the_target_is_asked_with_the_very_request_of_the_move(world):
    made = world()
    found = plan()
    assert not found.refused and check(found, "lxd-takes").level is Level.OK
    (trial,) = made.trials
    assert trial["devices"] == landing.TRIAL and trial["source"]["operation"] == landing.NOWHERE
    assert trial["config"]["boot.autostart"] == "false" and trial["source"]["live"] is True
    assert not made.asks and "c1" not in made.instances[THERE]


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ('Failed checking if instance creation allowed: Invalid value "true" for config "raw.lxc"', "change that"),
        ("Unknown configuration key: user.new", "change that"),
        ('Failed creating instance record: Instance is busy running a "stop" operation', "start that daemon again"),
    ],
)
def test_what_the_target_would_refuse_is_said_before(world, answer, remedy):
    made = world()
    made.answer = answer
    found = plan()
    (one,) = found.refused
    assert one.id == "lxd-takes" and answer in one.reason and remedy in one.remedy


def test_a_daemon_that_takes_any_device_is_waited_for(monkeypatch):
    """No such version is known; what it begins ends with an address that nobody serves."""
    ops = iter([{"status_code": 103}, {"status_code": 400, "err": "connection refused"}])
    daemon = SimpleNamespace(
        environment={},
        node=SimpleNamespace(name="n2"),
        post=lambda *path, json: {"url": "/1.0/operations/1"},
        operation=lambda url: next(ops),
    )
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    found = landing.takes(daemon, {"name": "c1", "config": {}, "devices": {}})
    assert found.level is Level.OK and next(ops, None) is None


def test_a_member_of_a_cluster_makes_it_itself():
    asked = []
    environment = {"server_clustered": True, "server_name": "m2"}
    daemon = SimpleNamespace(environment=environment, post=lambda *path, **words: asked.append(words) or {})
    landing.make(daemon, {"name": "c1"})
    assert asked == [{"json": {"name": "c1"}, "params": {"target": "m2"}}]


# What goes on under the name


@pytest.mark.parametrize(
    ("end", "one", "id"),
    [
        (HERE, busy("Starting instance"), "lxd-busy"),
        (HERE, busy("Executing command"), ""),
        (HERE, busy("Showing console"), ""),
        (HERE, busy("Starting instance", name="c10"), ""),
        (HERE, busy("Starting instance", project="dev"), ""),
        (HERE, busy("Starting instance", project="default"), "lxd-busy"),
        (HERE, busy("Starting instance", code=200), ""),
        (THERE, busy("Creating instance"), "name-free"),
        (THERE, busy("Stopping instance"), "name-free"),
    ],
)
def test_a_daemon_that_is_at_it(world, end, one, id):
    made = world()
    made.others[end] = [one]
    found = plan()
    assert [bad.id for bad in found.refused] == ([id] if id else [])
    if id:
        assert one["description"] in found.refused[0].reason and "lxc operation list" in found.refused[0].remedy
        assert "delete" not in found.refused[0].remedy


def test_a_name_that_a_run_of_ours_has_taken_is_not_to_be_deleted():
    """The stopped instance there is the copy of a move that goes on, or is held."""
    shell = SimpleNamespace(call=lambda op: [{"id": "r7", "workload": "lxd/c1"}, {"id": "r8", "workload": "lxd/c2"}])
    runs = landing.open_runs(shell, "c1")
    found = landing.name_free("c1", {"status": "Stopped"}, runs, "", "b")
    assert runs == ["r7"] and found.level is Level.FAIL and "run r7" in found.reason
    assert "reberth recover r7" in found.remedy and "delete" not in found.remedy


def test_a_node_without_a_helper_has_no_runs():
    def call(op):
        raise HelperError("no such operation", kind="unknown-op")

    assert landing.open_runs(SimpleNamespace(call=call), "c1") == []


# Profiles


def test_a_profile_of_the_same_name_with_other_content_is_warned_of(world):
    made = world()
    made.profiles[HERE] = {
        "default": {
            "config": {"raw.lxc": "lxc.console.path = none", "limits.cpu": "1", "user.x": "y"},
            "devices": {"eth0": {"type": "nic", "parent": "br0"}, "root": {"type": "disk"}},
        }
    }
    made.profiles[THERE] = {
        "default": {"config": {"limits.cpu": "2", "user.x": "y"}, "devices": {"root": {"type": "disk"}}}
    }
    found = plan()
    one = check(found, "profile-content")
    assert one.level is Level.WARN and not found.refused
    assert one.reason == "profile default is another one on the target: keys limits.cpu, raw.lxc; devices eth0"
    made.profiles[THERE] = made.profiles[HERE]
    assert not [one for one in plan().checks if one.id == "profile-content"]


# Addresses


@pytest.mark.parametrize(
    ("addresses", "good", "url", "said"),
    [
        (["192.0.2.1:8443", "[fd84::1]:8443"], {"https://[fd84::1]:8443"}, "https://[fd84::1]:8443", 1),
        (
            ["192.0.2.1:8443", "[fd84::1]:8443"],
            {"https://192.0.2.1:8443", "https://[fd84::1]:8443"},
            "https://192.0.2.1:8443",
            0,
        ),
        (["192.0.2.1:8443", "[fd84::1]:8443"], set(), "", 4),
        ([], set(), "", 2),
    ],
)
def test_each_address_of_a_daemon_is_tried(addresses, good, url, said):
    """The first one that answers; where none does each is named with its error, and so is the key."""

    def daemon(name):
        probe = {}

        def post(*path, json):
            server = json["source"]["server"]
            probe[json["source"]["alias"]] = GOOD if server in good else {**GOOD, "err": REFUSED.format(server)}
            return {"url": json["source"]["alias"]}

        node = SimpleNamespace(name=name, options_of=lambda plugin: {})
        environment = {"addresses": addresses, "certificate": "PEM"}
        return SimpleNamespace(node=node, environment=environment, post=post, operation=lambda url: probe[url])

    found = rendezvous.choose(daemon("n1"), daemon("n2"), "lxd", "", False)
    assert (found.check.level is Level.OK) is bool(url) and (not url or found.url == url)
    assert (
        found.check.reason.count("does not") == said
        and found.check.reason.count("connection refused") == said % 2 + (said == 4) * 4
    )
    if not url:
        assert "[nodes.n1.lxd] url" in found.check.remedy and "core.https_address" in found.check.remedy


def test_an_address_that_never_answers_does_not_hide_the_next_one(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    silent = SimpleNamespace(operation=lambda url: GOOD if url == "b" else {"status_code": 103})
    assert rendezvous._answers(silent, {"first": "a", "second": "b"}) == {"first": None, "second": ""}
    assert now[0] < rendezvous.LONGER_S + 1


def test_the_clients_own_address_is_tried_first():
    node = SimpleNamespace(name="n1", options_of=lambda plugin: {"url": "https://n1.example:8443/"})
    daemon = SimpleNamespace(node=node, environment={"addresses": ["192.0.2.1:8443", "n1.example:8443"]})
    assert rendezvous.addresses(daemon) == ["https://n1.example:8443", "https://192.0.2.1:8443"]


# Pools


ROOT = {"type": "disk", "path": "/", "pool": "fast", "size": "4GiB"}


@pytest.mark.parametrize(
    ("own", "profile", "wanted", "pool"),
    [
        (True, "slow", "", "fast"),
        (False, "slow", "", "slow"),
        (False, "", "", "fast"),
        (True, "slow", "big", "big"),
    ],
)
def test_the_pool_that_the_copy_comes_to(own, profile, wanted, pool):
    """As the daemon chooses it: not the source's where the target's profile names another one."""
    root = {"disk0": ROOT}
    instance = {"devices": root if own else {}, "expanded_devices": root, "profiles": ["default"], "name": "c1"}
    there = {"devices": {"root": {"path": "/", "pool": profile}} if profile else {}}
    target = SimpleNamespace(get=lambda *path: there if path[0] == "profiles" else None)
    assert landing.pool_there(instance, target, wanted) == pool
    devices = landing.in_pool(instance, wanted)["devices"]
    assert devices == ({"disk0": {**ROOT, "pool": "big"}} if wanted else instance["devices"])


def test_another_pool_goes_into_the_request(world):
    made = world()
    report = move(lxd_pool="big")
    assert report.exit_code == 0 and where(made) == ([THERE], [THERE])
    taken = next(words for _, words in made.asks if "source" in words)
    assert taken["devices"]["root"] == {"type": "disk", "path": "/", "pool": "big"}
    assert made.trials[0]["devices"]["root"]["pool"] == "big"


# What the source's daemon does with the old one


@pytest.mark.parametrize("old", [None, "false", "true"])
def test_a_protected_container_is_removed_and_its_copy_stays_protected(old):
    asked = []
    found = {"expanded_config": {phases.PROTECTED: old} if old else {}}
    side = SimpleNamespace(
        get=lambda *path: found,
        patch=lambda *path, json: asked.append(json["config"]),
        delete=lambda *path: asked.append("deleted"),
    )
    phases.delete(side, "c1")
    assert asked == ([{phases.PROTECTED: "false"}] if old == "true" else []) + ["deleted"]


def test_the_key_travels_as_it_was(world):
    made = world()
    made.instances[HERE]["c1"]["config"][phases.PROTECTED] = "true"
    assert move().exit_code == 0 and where(made) == ([THERE], [THERE])
    assert made.instances[THERE]["c1"]["config"][phases.PROTECTED] == "true"


@pytest.mark.parametrize(
    ("own", "held", "bad"),
    [({}, True, False), ({"keep_source": True}, True, True), ({}, False, True)],
)
def test_an_ephemeral_one_is_not_kept_nor_left_to_a_false_success(own, held, bad):
    one = {"name": "c1", "ephemeral": True, "expanded_config": {}}
    found = list(checks.kept(one, Options(backend_args=own), "lxd", "a", held))
    assert [check.level is Level.FAIL for check in found] == [bad]


@pytest.mark.parametrize(
    ("server", "value", "bad"), [("lxd", "", False), ("incus", "", True), ("incus", "true", False)]
)
def test_a_stateful_snapshot_of_incus_needs_a_key(server, value, bad):
    one = {"name": "c1", "expanded_config": {"migration.stateful": value}}
    found = list(checks.kept(one, Options(backend_args={"snapshot_first": True}), server, "a"))
    assert [check.id for check in found if check.level is Level.FAIL] == (["stateful"] if bad else [])


# Whose container it is


def test_a_container_of_another_project_is_named_and_not_taken():
    daemon = SimpleNamespace(get=lambda *path: None, projects_of=lambda name: ["dev"], environment={})
    with pytest.raises(UsageError, match=r"in the project default, .* there is one in dev") as caught:
        wanted.running(daemon, Workload("n1", "lxd", "p1"), "lxd")
    assert caught.value.hint.startswith("lxc move --project dev")


def test_a_container_on_another_member_of_the_cluster():
    """Its pid is one of another machine; the node of the same number is none of its."""
    one = {"status_code": 103, "status": "Running", "location": "m2"}
    environment = {"server_clustered": True, "server_name": "m1"}
    daemon = SimpleNamespace(get=lambda *path: one, environment=environment)
    with pytest.raises(UsageError, match="on m2, another member"):
        wanted.running(daemon, Workload("n1", "lxd", "c1"), "lxd")
    environment["server_name"] = "m2"
    assert wanted.running(daemon, Workload("n1", "lxd", "c1"), "lxd") == one


def test_two_names_of_one_daemon():
    facts = {"fingerprint": "f"}
    with pytest.raises(UsageError, match="same daemon"):
        wanted.refuse_one_daemon(facts, facts, "a", "b")
