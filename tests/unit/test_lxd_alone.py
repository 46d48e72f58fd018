"""Moves over two played daemons' API, by the real host and plugin: each end of a run, and a controller that dies."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from reberth.config.config import Config
from reberth.config.request import Request
from reberth.host import Host
from reberth.plan import planner
from reberth.run.journal import Journal
from reberth_hooks import CommandError, Node, Options, RefusedError, UnreachableError

pytest.importorskip("pylxd", reason="pylxd is not installed")
from reberth_lxd.api import kinds
from reberth_lxd.api.client import RUNNING, STOPPED
from reberth_lxd.held import phases, survey
from reberth_lxd.https import facts
from reberth_lxd.https import phases as apimove
from reberth_lxd.https import survey as apisurvey

KEY = "migration.incremental.memory"
HERE, THERE = "n1", "n2"


class World:
    """Two daemons and what becomes of a move: `how` is what the target's restore comes to."""

    def __init__(self, how="moves"):
        self.how, self.silent, self.snapshot_fails = how, set(), False
        self.instances: dict[str, dict[str, Any]] = {HERE: {}, THERE: {}}
        self.ops: dict[str, dict[str, Any]] = {}
        self.numbers = itertools.count(1)
        self.memory = "whole"
        self.most_running, self.asked = 1, 0
        self.patches: list[tuple[str, dict[str, str]]] = []
        self.asks: list[tuple[str, dict[str, Any]]] = []
        reached = {"status_code": 400, "err": "Failed getting remote image info: Image not found", "node": ""}
        self.probe: dict[str, Any] = {HERE: reached, THERE: reached}
        self.trials: list[dict[str, Any]] = []
        self.answer = 'Failed creating instance record: Invalid device type "reberth"'
        self.others: dict[str, list[dict[str, Any]]] = {HERE: [], THERE: []}  # operations that are none of ours
        self.profiles: dict[str, dict[str, Any]] = {HERE: {}, THERE: {}}
        disk = {"root": {"type": "disk", "path": "/", "pool": "p"}}
        config = {"raw.lxc": "lxc.console.path = none", "security.privileged": "true", f"{KEY}.goal": "55"}
        self.instances[HERE]["c1"] = {
            "name": "c1",
            "type": "container",
            "status_code": RUNNING,
            "status": "Running",
            "profiles": ["default"],
            "config": config,
            "expanded_config": config,
            "devices": {},
            "expanded_devices": disk,
            "snapshots": {},
        }

    def begin(self, node):
        url = f"/1.0/operations/{next(self.numbers)}"
        self.ops[url] = {"status_code": 103, "err": "", "description": "Migrating instance", "node": node}
        self.ops[url]["resources"] = {"instances": ["/1.0/instances/c1"]}
        return url

    def end(self, node, code, err=""):
        for one in self.ops.values():
            if one["node"] == node and one["status_code"] == 103:
                one.update(status_code=code, err=err)

    def set(self, node, code):
        self.instances[node]["c1"].update(status_code=code, status={RUNNING: "Running", STOPPED: "Stopped"}[code])
        running = [n for n in (HERE, THERE) if self.instances[n].get("c1", {}).get("status_code") == RUNNING]
        self.most_running = max(self.most_running, len(running))

    def pull(self, json):
        """Both daemons have begun: what comes of it is known at once."""
        old = self.instances[HERE]["c1"]
        self.instances[THERE]["c1"] = {**old, "config": json["config"], "status_code": STOPPED, "status": "Stopped"}
        if self.how == "fails":
            del self.instances[THERE]["c1"]
            return self.end(THERE, 400, "restore failed") or self.end(HERE, 400, "migration failed")
        if self.how == "both":
            self.set(THERE, RUNNING)
            return self.end(THERE, 200) or self.end(HERE, 400, "connection lost")
        self.set(HERE, STOPPED)
        if self.how == "hollow":
            self.set(THERE, RUNNING)
            self.instances[THERE]["c1"]["hollow"] = True
        if self.how in ("false", "hollow"):
            self.memory = "lost"
            return self.end(THERE, 400, "Failed migrating container") or self.end(HERE, 200)
        self.set(THERE, RUNNING)
        return self.end(THERE, 200) or self.end(HERE, 200)


class Played:
    """What of `Daemon` the plugin needs, over a world."""

    world: World

    def __init__(self, node, shell, socket=""):
        self.node, self.socket = node, socket
        if node.name in self.world.silent:
            raise UnreachableError(f"the daemon of node {node.name} does not answer")
        self.mine = self.world.instances[node.name]
        self.extensions = ["restrict_devlxd", *kinds.NEEDED]
        self.environment = {
            "server": "lxd",
            "server_version": "5.0.2",
            "addresses": ["192.0.2.1:8443"],
            "certificate": "PEM",
            "kernel_architecture": "x86_64",
            "certificate_fingerprint": node.name,
        }

    def spoken(self, hint):
        return hint

    def get(self, *path):
        if path[0] == "profiles":
            return self.world.profiles[self.node.name].get(path[1], {})
        if path[0] != "instances":
            return {"driver": "dir"}
        one = self.mine.get(path[1])
        if one is None or path[2:3] == ("snapshots",):
            return (one or {}).get("snapshots", {}).get(path[3]) if path[2:] else None
        processes = 0 if one.get("hollow") else 2
        state = {"status_code": one["status_code"], "processes": processes, "pid": 7 if processes else -1}
        return state if path[2:] else dict(one)

    def list(self, *path):
        return list(self.mine.values())

    def operations(self):
        self.world.asked += 1
        if self.world.asked > 20:  # nobody has connected to it
            self.world.end(self.node.name, 400, "context deadline exceeded")
        ours = [one for one in self.world.ops.values() if one["node"] == self.node.name]
        return [*ours, *self.world.others[self.node.name]]

    def operation(self, url):
        return self.world.ops.get(url, {"status_code": 0, "err": ""})

    def post(self, *path, json):
        if path == ("images",):
            url = f"/1.0/operations/image-{self.node.name}-{json['source']['server'].rpartition('.')[2]}"
            probe = self.world.probe[self.node.name]
            self.world.ops[url] = probe(json["source"]["server"]) if callable(probe) else probe
            return {"url": url, "secrets": {}}
        if "reberth-asks" in json.get("devices", {}):
            self.world.trials.append(json)
            raise CommandError(f"the daemon of node {self.node.name} says: {self.world.answer}")
        self.world.asks.append((self.node.name, json))
        found = {"url": self.world.begin(self.node.name), "secrets": {"control": "secret"}}
        if len(self.world.asks) % 2 == 0:
            self.world.pull(next(words for _, words in self.world.asks[-2:] if "source" in words))
        return found

    def create(self, *path, json):
        self.mine["c1"]["snapshots"][json["name"]] = {"config": dict(self.mine["c1"]["config"])}

    def patch(self, *path, json):
        if self.mine["c1"].get("hollow"):
            raise CommandError('Instance is busy running a "stop" operation')
        self.world.patches.append((self.node.name, dict(json["config"])))
        config = {**self.mine["c1"]["config"], **json["config"]}
        self.mine["c1"]["config"] = {k: v for k, v in config.items() if v != ""}

    def put(self, *path, json):
        if "restore" in json:
            if self.world.snapshot_fails:
                raise CommandError("it cannot be restored")
            self.world.memory = "as before"
            return self.world.set(self.node.name, RUNNING)
        return self.world.set(self.node.name, {"start": RUNNING, "stop": STOPPED}[json["action"]])

    def delete(self, *path):
        if path[2:3] == ("snapshots",):
            self.mine.get("c1", {}).get("snapshots", {}).pop(path[3], None)
        else:
            assert self.mine["c1"]["status_code"] == STOPPED, "an instance that runs is removed"
            del self.mine["c1"]


class Quiet:
    """No events."""

    trouble = ""

    def __init__(self, node):
        pass

    def said(self, word):
        return []

    def close(self):
        """Nothing is open."""


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for module in (apisurvey, facts, phases, survey):
        monkeypatch.setattr(module, "Daemon", Played)
    real, slept = time.monotonic, [0.0]
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.__setitem__(0, slept[0] + max(seconds, 0.05)))
    monkeypatch.setattr(time, "monotonic", lambda: real() + slept[0])
    monkeypatch.setattr(apimove, "Events", Quiet)
    number = itertools.count()  # hundreds of runs in some seconds: four random digits would meet one another
    monkeypatch.setattr(planner.make_plan, "__defaults__", (lambda: f"run-{next(number)}",))
    monkeypatch.setattr(Journal, "controller", lambda self: 0)
    monkeypatch.setattr(facts, "NOTICE_S", 0.0)

    def make(how="moves"):
        Played.world = World(how)
        return Played.world

    return make


def host():
    table = {"lxd": {"url": "https://192.0.2.1:8443", "certificate": "c", "identity": "i"}}
    nodes = {n: Node(n, connector="lxd", backends=("lxd",), options=table) for n in (HERE, THERE)}
    return Host(Config(nodes), quiet=True)


def move(*words, **own):
    options = Options(backend_args={**dict.fromkeys(words, True), **own})
    with host() as one:
        plan = one.plan(Request(f"{HERE}:c1", f"{THERE}:", options))
        assert not plan.refused, plan.refused
        return one.move(plan)


def where(world):
    """Names of the nodes where it runs, and those that know it at all."""
    know = [n for n in (HERE, THERE) if "c1" in world.instances[n]]
    return [n for n in know if world.instances[n]["c1"]["status_code"] == RUNNING], know


CASES = [
    ("moves", (), 0, "moved", THERE, "whole"),
    ("fails", (), 20, "rolled-back", HERE, "whole"),
    ("both", (), 20, "rolled-back", HERE, "whole"),
    ("false", (), 60, "lost", HERE, "lost"),
    ("false", ("snapshot_first",), 20, "rolled-back", HERE, "as before"),
]


@pytest.mark.parametrize(("how", "words", "code", "outcome", "home", "memory"), CASES)
def test_each_end_of_a_move(world, how, words, code, outcome, home, memory):
    made = world(how)
    report = move(*words)
    assert (report.exit_code, report.outcome) == (code, outcome), report.error
    assert where(made) == ([home], [home]) and made.memory == memory
    kept = made.instances[home]["c1"]
    assert kept["config"][f"{KEY}.goal"] == "55" and KEY not in kept["config"] and not kept["snapshots"]
    assert (report.error is None) is (outcome == "moved")
    assert made.most_running == (2 if how == "both" else 1)


def test_a_snapshot_that_cannot_be_restored_is_a_loss(world):
    made = world("false")
    made.snapshot_fails = True
    report = move("snapshot_first")
    assert (report.exit_code, report.outcome) == (60, "lost") and where(made) == ([HERE], [HERE])


def test_a_copy_that_is_said_to_run_without_a_process(world):
    """The source is started afresh; the record goes when its daemon was started again, and does not start with it."""
    made = world("hollow")
    report = move()
    assert (report.exit_code, report.outcome) == (60, "lost") and made.instances[HERE]["c1"]["status_code"] == RUNNING
    assert "knows of no process" in "".join(report.warnings) or made.instances[THERE], report.warnings
    assert made.instances[THERE]["c1"]["config"]["boot.autostart"] == "false"
    with host() as one:
        assert [run.exit_code for run in one.recover(None)] == [0] and len(one.open_runs()) == 1
        del made.instances[THERE]["c1"]["hollow"]
        made.set(THERE, STOPPED)
        one.recover(None)
        assert one.open_runs() == [] and where(made) == ([HERE], [HERE])


def test_the_old_one_is_kept_on_request(world):
    made = world()
    assert move("keep_source").exit_code == 0
    assert where(made) == ([THERE], [HERE, THERE])
    assert made.instances[HERE]["c1"]["config"]["boot.autostart"] == "false"


@pytest.mark.parametrize(("silent", "home"), [(HERE, THERE), (THERE, HERE)])
def test_a_daemon_that_is_silent_at_the_end(world, monkeypatch, silent, home):
    """Held, or moved with something left, until `recover` can ask it."""
    made = world("fails" if home == HERE else "moves")
    monkeypatch.setattr("reberth.run.session.GIVE_UP_S", 0.0)
    look = facts.look

    def deaf(found):
        made.silent.add(silent)
        return look(found)

    monkeypatch.setattr(facts, "look", deaf)
    report = move()
    assert report.exit_code in (20, 41), report
    monkeypatch.setattr(facts, "look", look)
    made.silent.clear()
    with host() as one:
        one.recover(None)
    assert where(made) == ([home], [home])


def test_there_are_no_files_to_keep(world, tmp_path):
    made = world()
    with host() as one, pytest.raises(RefusedError, match="API alone"):
        one.checkpoint(Request(f"{HERE}:c1", ""), tmp_path / "kept")
    assert where(made) == ([HERE], [HERE]) and not (tmp_path / "kept").exists()


class Died(BaseException):
    """The controller is gone."""


@pytest.mark.parametrize(
    ("how", "words", "own"),
    [
        ("moves", (), {}),
        ("fails", (), {}),
        ("both", (), {}),
        ("false", (), {}),
        ("false", ("snapshot_first",), {}),
        ("moves", (), {"lxd_mode": "push"}),
    ],
)
def test_a_controller_that_dies_at_any_record(world, monkeypatch, how, words, own):
    """`recover` ends the run: one copy runs, nothing else knows it, its keys are as before, nothing is left open."""
    write, left = Journal.write, [0]

    def dying(self, event, **data):
        if left[0] == 0:
            self.release()  # a lock ends with its process
            raise Died
        left[0] -= 1
        write(self, event, **data)

    for number in itertools.count(2):
        made = world(how)
        left[0] = number
        monkeypatch.setattr(Journal, "write", dying)
        try:
            move(*words, **own)
            died = False
        except Died:
            died = True
        monkeypatch.setattr(Journal, "write", write)
        with host() as one:
            ended = one.recover(None)
            assert one.open_runs() == [], (number, ended)
        home = THERE if how == "moves" and THERE in where(made)[0] else HERE
        assert where(made) == ([home], [home]), (number, how)
        assert KEY not in made.instances[home]["c1"]["config"], (number, Journal(ended[0].id).records)
        assert not made.instances[home]["c1"]["snapshots"]
        if not died:
            break
    assert number > 15
