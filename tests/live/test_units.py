"""A service of systemd that is started again whenever it ends: it moves with --unit, and never runs twice.

Live because a real systemd starts again what ends.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
from faults import strike
from faults.cases import points
from faults.witness import Witness, turns
from livekit import stand
from livekit.command import Command, journal_of
from livekit.managed import ManagedLab, Unit
from livekit.rollback import check_rolled_back
from livekit.snapshot import take
from livekit.stand import healthy
from workloads import driver
from workloads.driver import Handle

from reberth_lab.lab import Lab
from reberth_lab.node import Node

RESTART_S = 0.05
WORDS = ("pulse", "--mib", "8")
DIRECTORY = f"{driver.STATES}/service"
COMMAND = " ".join([*driver.PYTHON, *WORDS, "--dir", DIRECTORY, "--foreground"])
SERVICE = (
    *("[Unit]", "StartLimitIntervalSec=0"),
    *("[Service]", f"ExecStartPre=/usr/bin/rm -f {DIRECTORY}/ready", f"ExecStart={COMMAND}"),
    *("Restart=always", "RestartForceExitStatus=SIGKILL", f"RestartSec={RESTART_S}"),
    *("StandardOutput=null", "StandardError=null"),
    *("[Install]", "WantedBy=multi-user.target"),
)
KEPT = ("open runs", "images on disk", "shared memory", "nft")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Another lab than that of the other tests: its first node is run by systemd."""
    if os.geteuid() != 0:
        pytest.skip("two nodes need root")
    one = ManagedLab((os.environ.get("REBERTH_LAB_NAME") or "live")[:9] + "d", say=lambda _: None)
    one.down()
    one.up_managed()
    yield one
    one.down()


@pytest.fixture(scope="module")
def node1(lab: Lab) -> Node:
    return lab.node("node1")


@pytest.fixture(scope="module")
def node2(lab: Lab) -> Node:
    return lab.node("node2")


@pytest.fixture(scope="module")
def reberth(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(lab.config_path, tmp_path_factory.mktemp("state"))


@dataclass
class Service:
    """The unit, its workload, and who watches both nodes."""

    unit: Unit
    handle: Handle
    witness: Witness
    other: Node

    @property
    def word(self) -> str:
        """As a user names it."""
        return f"node1:criu/{self.handle.pid}"

    def ran(self) -> list[int]:
        """Who ran, in order; after the time in which systemd would have started it again many times."""
        time.sleep(20 * RESTART_S)
        return turns(self.witness.stop())

    def given_back(self) -> None:
        """The unit is as it was written, and starts again what ends."""
        assert self.unit.drop_ins() == ""
        assert (self.unit.says("Restart"), self.unit.says("RestartForceExitStatus")) == ("always", "KILL")

    def supervised(self) -> None:
        """The same, tried."""
        self.given_back()
        assert (self.unit.pid, self.unit.says("NRestarts")) == (self.handle.pid, "0")
        self.unit.ctl("kill", "--signal=KILL", self.unit.name)
        end_s = time.monotonic() + 20
        while self.unit.pid in (0, self.handle.pid) and time.monotonic() < end_s:
            time.sleep(0.05)
        assert self.unit.pid not in (0, self.handle.pid)

    def moved(self) -> None:
        """It is over there and well, and here it has ended and stays so."""
        assert self.ran() == [0, 1]
        healthy(self.other, self.handle)
        self.given_back()
        assert (self.unit.says("ActiveState"), self.unit.says("NRestarts")) == ("failed", "0")


@pytest.fixture
def service(node1: Node, node2: Node) -> Iterator[Service]:
    """Such a service on the first node, and its files on both; nothing of a move may be left when it has ended."""
    stand.keep_pids_apart((node1, node2))
    for node in (node1, node2):
        driver.install(node)
        node.run(["rm", "-rf", "--", DIRECTORY])
        node.run([*driver.PYTHON, *WORDS, "--dir", DIRECTORY, "--prepare-only"])
    before = [take(node) for node in (node1, node2)]
    unit = Unit(node1, "pulse")
    unit.write(*SERVICE)
    unit.ctl("start", unit.name)
    end_s = time.monotonic() + 30
    while not node1.exists(f"{DIRECTORY}/ready") and time.monotonic() < end_s:
        time.sleep(0.05)
    handle = Handle("pulse", DIRECTORY, pid=unit.pid, arguments=WORDS[1:])
    healthy(node1, handle)
    one = Service(unit, handle, Witness((node1, node2), DIRECTORY), node2)
    yield one
    one.witness.stop()
    unit.remove()
    for node, was in zip((node1, node2), before, strict=True):
        node.run(["pkill", "-KILL", "-f", "--", f"--dir {DIRECTORY}( |$)"], check=False)
        stand.remove_empty_cgroups(node)
        now = take(node)
        assert {key: now[key] for key in KEPT} == {key: was[key] for key in KEPT}


def test_without_the_option_it_is_refused(service: Service, reberth: Command) -> None:
    done = reberth.move(service.word, "node2:")
    assert done.code == 10, str(done)
    assert "pulse.service would start it again" in done.error and "--unit" in done.error, str(done)
    assert service.ran() == [0]
    service.supervised()


def test_with_the_check_skipped_both_run(service: Service, reberth: Command, node1: Node, node2: Node) -> None:
    """The twin: systemd really starts it again, and what judges the other tests sees that."""
    done = reberth.move(service.word, "node2:", "--skip", "supervisor")
    assert done.code == 0, str(done)
    end_s = time.monotonic() + 30
    while not service.unit.pid and time.monotonic() < end_s:
        time.sleep(0.05)
    time.sleep(1)
    ran = service.ran()
    assert ran[:3] == [0, 1, 0] and len(ran) > 3, ran
    with pytest.raises(AssertionError):
        service.moved()


def test_it_moves_and_is_not_started_again(service: Service, reberth: Command) -> None:
    done = reberth.move(service.word, "node2:", "--unit")
    assert done.code == 0, str(done)
    assert any("nobody supervises the copy" in text for text in done.report["warnings"]), str(done)
    service.moved()


def test_a_rollback_gives_the_unit_back(
    service: Service, reberth: Command, sabotage: Callable[..., Mapping[str, str]], node2: Node
) -> None:
    away = node2.enter(["mv", DIRECTORY, f"{DIRECTORY}.aside"])
    done = reberth.move(service.word, "node2:", "--unit", env=sabotage("restore", away))
    node2.run(["mv", f"{DIRECTORY}.aside", DIRECTORY])
    check_rolled_back(done)
    assert service.ran() == [0]
    service.supervised()


@pytest.fixture(scope="module")
def journal(lab: Lab, reberth: Command) -> list[dict[str, object]]:
    """What the controller journals of a move of such a tree."""
    nodes = [lab.node("node1"), lab.node("node2")]
    works = stand.Stand(nodes)
    try:
        stand.keep_pids_apart(nodes)
        done = reberth.move(stand.word_of(nodes[0], works.raw(*WORDS)), "node2:")
        assert done.code == 0, str(done)
        return journal_of(reberth.state, done.report["id"])
    finally:
        works.stop_all()


@pytest.fixture
def killed(
    service: Service, reberth: Command, journal: list[dict[str, object]], settings: Callable[..., Mapping[str, str]]
) -> Callable[[str], str]:
    """Moves it with a controller that dies when it begins this step; returns the run's id."""

    def move(step: str) -> str:
        at = next(point.at for point in points(journal) if point.begins and point.name == step)
        apart = settings(lambda text: "".join(x for x in text.splitlines(True) if not x.startswith("direct")))
        done = reberth.move(service.word, "node2:", "--unit", env={**apart, "REBERTH_CRASH_AT": f"{at}:before"})
        assert done.code == -9, str(done)
        place = reberth.state / "reberth" / "runs"
        return max(path.name for path in place.iterdir())

    return move


def test_killed_before_the_decision_the_source_runs_and_is_supervised(
    service: Service, reberth: Command, killed: Callable[[str], str]
) -> None:
    run_id = killed("ask-ready")
    end_s = time.monotonic() + 30
    while service.unit.drop_ins() and time.monotonic() < end_s:  # the helper does that alone
        time.sleep(0.1)
    service.given_back()
    assert reberth.run("recover", run_id, "--json").code == 0
    assert service.ran() == [0]
    service.supervised()


def test_killed_after_the_landing_recover_gives_the_source_up(
    service: Service, reberth: Command, killed: Callable[[str], str]
) -> None:
    run_id = killed("commit-source")
    assert (service.unit.says("Restart"), service.unit.pid) == ("no", service.handle.pid)
    done = reberth.run("recover", run_id, "--json")
    assert done.code == 0, str(done)
    service.moved()


def test_held_without_any_helper_nobody_starts_it(
    service: Service, reberth: Command, killed: Callable[[str], str], node1: Node
) -> None:
    """The source's node has nothing but what is on its disk; even its frozen tasks end, and an operator tries."""
    run_id = killed("permit")
    assert strike.kill(strike.helpers(node1))
    assert service.unit.says("Restart") == "no"
    service.unit.ctl("kill", "--signal=KILL", service.unit.name)
    time.sleep(20 * RESTART_S)
    assert service.unit.says("ActiveState") == "failed"
    service.unit.ctl("start", service.unit.name)
    assert (service.unit.says("ConditionResult"), service.unit.pid) == ("no", 0)
    done = reberth.run("recover", run_id, "--json")
    # The source's tasks are gone, and the target has kept the whole copy: it is the one that runs from now on.
    assert (done.code, json.loads(done.stdout)["runs"][0]["outcome"]) == (0, "moved"), str(done)
    assert service.ran() == [0, 1]
    service.given_back()
    service.unit.ctl("start", service.unit.name)
    assert service.unit.pid


def test_held_without_any_helper_recover_gives_the_unit_back(
    service: Service, reberth: Command, killed: Callable[[str], str], node1: Node
) -> None:
    run_id = killed("permit")
    assert strike.kill(strike.helpers(node1))
    assert service.unit.says("Restart") == "no"
    done = reberth.run("recover", run_id, "--json")
    assert done.code == 0, str(done)
    assert service.ran() == [0]
    service.supervised()


def test_what_else_would_start_or_end_it_is_refused(service: Service, reberth: Command, node1: Node) -> None:
    timer = Unit(node1, "pulse", kind="timer")
    timer.write("[Timer]", "OnActiveSec=1h")
    timer.ctl("start", timer.name)
    more = (
        "[Unit]",
        "OnFailure=other.service",
        "[Service]",
        "WatchdogSec=30s",
        "ExecStartPost=/bin/sh -c 'sleep 1000 & :'",
    )
    node1.write(f"{service.unit.path}.d/more.conf", "\n".join([*more, ""]))
    service.unit.ctl("daemon-reload")
    service.unit.ctl("restart", service.unit.name)
    try:
        done = reberth.run("plan", f"node1:criu/{service.unit.pid}", "node2:", "--unit", "--json")
        assert done.code == 10, str(done)
        for word in ("OnFailure=other.service", "WatchdogUSec=30s", "other processes", "TriggeredBy=pulse.timer"):
            assert word in done.error, str(done)
    finally:
        timer.remove()


CONTAINER = "unit-pulse"
BUNDLE = f"{driver.BUNDLES}/{CONTAINER}"
RUNS_IT = (
    *("[Unit]", "StartLimitIntervalSec=0", "[Service]", "Type=forking", f"PIDFile=/run/{CONTAINER}.pid"),
    f"ExecStartPre=-/usr/sbin/runc delete --force {CONTAINER}",
    f"ExecStart=/usr/sbin/runc run --detach --bundle {BUNDLE} --pid-file /run/{CONTAINER}.pid {CONTAINER}",
    *("Restart=always", f"RestartSec={RESTART_S}", "StandardOutput=null", "StandardError=null"),
)


def test_a_container_whose_cgroup_tells_of_no_unit(reberth: Command, node1: Node, node2: Node) -> None:
    """runc gives it a cgroup beside the unit's: only systemd knows that it watches this process."""
    driver.bundle(node1, BUNDLE, WORDS)
    unit = Unit(node1, CONTAINER)
    unit.write(*RUNS_IT)
    unit.ctl("start", unit.name)
    handle = Handle("pulse", f"{BUNDLE}/rootfs/state", container=CONTAINER, bundle=BUNDLE, arguments=WORDS[1:])
    try:
        assert unit.name not in node1.read(f"/proc/{unit.pid}/cgroup")
        end_s = time.monotonic() + 30
        while not node1.exists(f"{handle.directory}/ready") and time.monotonic() < end_s:
            time.sleep(0.05)
        healthy(node1, handle)
        done = reberth.move(f"node1:runc/{CONTAINER}", "node2:")
        assert done.code == 10 and f"{unit.name} would start it again" in done.error, str(done)
        service = Service(unit, handle, Witness((node1, node2), handle.directory), node2)
        done = reberth.move(f"node1:runc/{CONTAINER}", "node2:", "--unit")
        assert done.code == 0, str(done)
        assert service.ran() == [0, 1]
        healthy(node2, handle)
        assert unit.drop_ins() == "" and unit.says("Restart") == "always"
        assert (unit.says("ActiveState"), unit.says("NRestarts")) == ("failed", "0")
    finally:
        unit.remove()
        for node in (node1, node2):
            driver.stop(node, handle)
            node.run(["rm", "-rf", "--", BUNDLE, f"/run/{CONTAINER}.pid"])
