"""A service address moves with its workload: open connections of peers outside go on, also after a rollback.

Live because open TCP connections go on through a real kernel's repair mode, neighbour tables and links.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from livekit.command import Command, with_wrappers
from livekit.rollback import check_rolled_back
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from livekit.talk import Talk
from workloads.driver import Handle

from reberth_lab.demo import run_demo
from reberth_lab.lab import Lab
from reberth_lab.node import Node

Settings = Callable[[Callable[[str], str]], dict[str, str]]
Sabotage = Callable[..., Mapping[str, str]]
PORT = 7007
HOST = 100  # the last number of the service address: no node has it
V6 = "fd72:6562:6572::"
KEEP = "--tcp-established"


@pytest.fixture
def enabled(settings: Settings) -> dict[str, str]:
    """The environment in which the wrapper is enabled on both nodes."""
    return settings(lambda text: with_wrappers(text, "address"))


@pytest.fixture
def service(lab: Lab, node1: Node, node2: Node) -> Iterator[str]:
    """A service address beside node1's own, gone from everywhere at the end."""
    address = lab.site.address(HOST)
    node1.run(["ip", "address", "add", f"{address}/24", "dev", interface(node1)])
    forget_neighbour(lab, address)
    yield address
    for node in (node1, node2):
        node.run(["ip", "address", "del", f"{address}/24", "dev", interface(node)], check=False)


@pytest.fixture
def service6(lab: Lab, node1: Node, node2: Node) -> Iterator[str]:
    """The same in IPv6, on a network of its own that all three share."""
    subprocess.run(["ip", "address", "add", f"{V6}fe/64", "dev", lab.site.bridge, "nodad"], check=True)
    for number, node in enumerate((node1, node2), 1):
        node.run(["ip", "address", "add", f"{V6}{number}/64", "dev", interface(node), "nodad"])
    node1.run(["ip", "address", "add", f"{V6}{HOST}/64", "dev", interface(node1), "nodad"])
    forget_neighbour(lab, f"{V6}{HOST}")
    yield f"{V6}{HOST}"
    subprocess.run(["ip", "address", "del", f"{V6}fe/64", "dev", lab.site.bridge], check=True)
    for number, node in enumerate((node1, node2), 1):
        for last in (number, HOST):
            node.run(["ip", "address", "del", f"{V6}{last}/64", "dev", interface(node)], check=False)


def forget_neighbour(lab: Lab, address: str) -> None:
    """An earlier test may have told the outer machine that another node has it."""
    subprocess.run(["ip", "neighbour", "flush", "to", address, "dev", lab.site.bridge], check=True, capture_output=True)


def interface(node: Node) -> str:
    """The interface of a node's own address."""
    routes = json.loads(node.run(["ip", "-j", "route", "get", node.site.address(253)]).stdout)
    return str(routes[0]["dev"])


def has(node: Node, address: str) -> bool:
    """Whether a node has the address."""
    return f" {address}/" in node.run(["ip", "-o", "address", "show"]).stdout


def echo(works: Stand, address: str, container: bool = False) -> Handle:
    """A workload that answers there."""
    words = ("echo", "--listen", address, "--port", str(PORT))
    return works.container(*words, host_net=True) if container else works.raw(*words)


def check_talk(talk: Talk, what: str) -> None:
    """No byte lost, none twice, no reset."""
    talk.end()
    total = sum(line.got for line in talk.lines)
    print(f"{what}: {len(talk.lines)} connections, {total} answers, worst gap {talk.gap_s * 1000:.0f} ms")
    assert talk.problems() == []
    assert total > 100 * len(talk.lines)


@pytest.mark.parametrize(("container", "count"), [(False, 1), (False, 50), (True, 1), (True, 50)])
def test_open_connections_go_on(
    container: bool,
    count: int,
    service: str,  # before `watch`: it is there all the time
    watch: Watch,
    works: Stand,
    enabled: dict[str, str],
    reberth: Command,
    node1: Node,
    node2: Node,
) -> None:
    """There and back again, with the same connections."""
    handle = echo(works, service, container)
    talk = Talk(service, PORT, count)
    talk.wait_for(100)
    for here, there in ((node1, node2), (node2, node1)):
        done = reberth.move(word_of(here, handle), f"{there.name}:", KEEP, "--move-address", service, env=enabled)
        assert done.code == 0, str(done)
        talk.wait_for(100)
        assert has(there, service) and not has(here, service)
        healthy(there, handle)
        assert gone(here, handle)
        print(f"downtime {done.report['downtime_s'] * 1000:.0f} ms")
    check_talk(talk, "moved twice")
    works.stop(handle)
    watch.check()


def test_in_version_six(
    works: Stand, service6: str, enabled: dict[str, str], reberth: Command, node1: Node, node2: Node
) -> None:
    handle = echo(works, service6)
    talk = Talk(service6, PORT, 5)
    talk.wait_for(100)
    done = reberth.move(word_of(node1, handle), "node2:", KEEP, "--move-address", f"{service6}/64", env=enabled)
    assert done.code == 0, str(done)
    talk.wait_for(100)
    assert has(node2, service6) and not has(node1, service6)
    check_talk(talk, "IPv6")


@pytest.mark.parametrize("planted", ["swallow", "twice", "reset"])
def test_a_lost_message_would_be_noticed(planted: str, works: Stand, service: str, node1: Node) -> None:
    """The twin of what is asserted above."""
    from workloads import driver

    handle = echo(works, service)
    talk = Talk(service, PORT)
    talk.wait_for(50)
    driver.plant(node1, handle, planted)
    time.sleep(0.2)
    talk.end()
    assert talk.problems()


@pytest.fixture
def struck(sabotage: Sabotage, settings: Settings) -> Sabotage:
    """As `sabotage`, with the wrapper enabled too."""

    def prepare(*words: object) -> Mapping[str, str]:
        return {**sabotage(*words), **settings(lambda text: with_wrappers(text, "address", "saboteur"))}

    return prepare


def check_back(talk: Talk, handle: Handle, service: str, here: Node, there: Node) -> None:
    """The source has workload, address and all its connections."""
    talk.wait_for(100)
    end_s = time.monotonic() + 20.0  # a target that is alone keeps its copy until it hears that the source runs again
    while has(there, service) and time.monotonic() < end_s:
        time.sleep(0.1)
    assert has(here, service) and not has(there, service)
    healthy(here, handle)
    assert gone(there, handle)
    check_talk(talk, "rolled back")


@pytest.mark.parametrize("container", [False, True], ids=["raw", "runc"])
@pytest.mark.parametrize("how", ["restore-fails", "interrupted"])
def test_connections_go_on_after_a_rollback(
    how: str,
    container: bool,
    service: str,
    works: Stand,
    struck: Sabotage,
    reberth: Command,
    node1: Node,
    node2: Node,
) -> None:
    handle = echo(works, service, container)
    running = Watch((node1, node2), reberth.state, reberth.ids)
    talk = Talk(service, PORT, 20)
    talk.wait_for(50)
    if how == "restore-fails":
        env = struck("restore", node2.enter(["sh", "-c", "rm -- @images@/inetsk.img || rm -- @images@/files.img"]))
    else:
        env = struck("transfer-images", ["kill", "-INT", "@pid@"])  # it is on neither node then
    done = reberth.move(word_of(node1, handle), "node2:", KEEP, "--move-address", service, env=env)
    check_rolled_back(done)
    check_back(talk, handle, service, node1, node2)
    running.check()


@pytest.mark.parametrize("container", [False, True], ids=["raw", "runc"])
def test_the_controller_dies_with_the_address_on_the_target(
    container: bool, service: str, works: Stand, enabled: dict[str, str], reberth: Command, node1: Node, node2: Node
) -> None:
    """Killed right before it asks for READY: each node goes back by itself."""
    handle = echo(works, service, container)
    running = Watch((node1, node2), reberth.state, reberth.ids)
    talk = Talk(service, PORT, 20)
    talk.wait_for(50)
    env = {**enabled, "REBERTH_CRASH_AT": "step"}
    done = reberth.move(word_of(node1, handle), "node2:", KEEP, "--move-address", service, env=env)
    assert done.code == -9, str(done)
    check_back(talk, handle, service, node1, node2)
    recovered = reberth.run("recover", "--json", env=enabled)
    assert recovered.code == 0, str(recovered)
    running.check()


# Runs on a node: kills the helper of a run once its journal says how the address goes back.
KILL_HELPER = r"""
import json, os, sys, time
path = f"/var/lib/reberth/{sys.argv[1]}/journal.jsonl"
while True:
    records = [json.loads(line) for line in open(path) if line.endswith("\n")]
    if any(r.get("do") == sys.argv[2] for r in records):
        break
    time.sleep(0.002)
os.kill(records[0]["helper"], 9)
"""


@pytest.mark.parametrize("killed", ["source", "target"])
def test_a_helper_is_killed(
    killed: str, service: str, works: Stand, struck: Sabotage, reberth: Command, node1: Node, node2: Node
) -> None:
    """The hook script alone gives the address back; who comes later finds it done."""
    handle = echo(works, service)
    running = Watch((node1, node2), reberth.state, reberth.ids)
    talk = Talk(service, PORT, 20)
    talk.wait_for(50)
    node, undo = (node1, "address_add") if killed == "source" else (node2, "address_del")
    kill = node.enter(["timeout", "20", "python3", "-c", KILL_HELPER, "@id@", undo])
    # The source's is killed before the restore begins; the target's by a watcher that is there in time for it.
    env = struck("restore", kill) if killed == "source" else struck("transfer-images", kill, 0.001)
    done = reberth.move(word_of(node1, handle), "node2:", KEEP, "--move-address", service, env=env)
    assert (done.code, done.report["owner"]) == (20, "source"), str(done)
    check_back(talk, handle, service, node1, node2)
    running.check()


@pytest.fixture
def stranger(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Gives an address to the outer machine, which is on the same link as the nodes."""
    given: list[str] = []

    def give(address: str) -> None:
        subprocess.run(
            ["ip", "address", "add", address, "dev", lab.site.bridge, *NODAD.get(":" in address, [])], check=True
        )
        given.append(address)

    yield give
    for address in given:
        subprocess.run(["ip", "address", "del", address, "dev", lab.site.bridge], check=True)


NODAD = {True: ["nodad"]}


@pytest.mark.parametrize("family", [4, 6])
def test_an_address_in_use_elsewhere_is_refused(
    family: int,
    request: pytest.FixtureRequest,
    works: Stand,
    stranger: Callable[[str], None],
    enabled: dict[str, str],
    reberth: Command,
    node1: Node,
    node2: Node,
) -> None:
    service = request.getfixturevalue("service" if family == 4 else "service6")
    handle = echo(works, service)
    running = Watch((node1, node2), reberth.state, reberth.ids)
    stranger(f"{service}/{32 if family == 4 else 128}")
    words = (word_of(node1, handle), "node2:", KEEP, "--move-address", service, "--json")
    for command in ("plan", "move"):
        done = reberth.run(command, *words, env=enabled)
        assert done.code == 10 and "in use on the network" in done.error, str(done)
    running.check()
    skipped = reberth.run("plan", *words, "--skip", "address-free", env=enabled)
    assert skipped.code == 0, str(skipped)


def test_addresses_that_cannot_move(
    service: str, works: Stand, enabled: dict[str, str], lab: Lab, reberth: Command, node1: Node, node2: Node
) -> None:
    handle = echo(works, service)
    running = Watch((node1, node2), reberth.state, reberth.ids)
    elsewhere = ["ip", "address", "{}", "203.0.113.5/24", "dev", interface(node1)]
    node1.run([word.format("add") for word in elsewhere])
    try:
        for address, reason in (
            (lab.site.address(HOST + 1), "is on no interface here"),
            ("203.0.113.5", "no interface is in the subnet"),
            (lab.site.address(1), "the ssh connection to this node uses"),
        ):
            done = reberth.move(word_of(node1, handle), "node2:", KEEP, "--move-address", address, env=enabled)
            assert done.code == 10 and reason in done.error, str(done)
            words = (KEEP, "--move-address", address, "--skip", "address")
            done = reberth.move(word_of(node1, handle), "node2:", *words, env=enabled)
            assert done.code == 10, str(done)
        node2.run(["ip", "address", "add", f"{service}/32", "dev", "lo"])
        done = reberth.move(word_of(node1, handle), "node2:", KEEP, "--move-address", service, env=enabled)
        assert done.code == 10 and "is on this node already" in done.error, str(done)
    finally:
        node1.run([word.format("del") for word in elsewhere])
        node2.run(["ip", "address", "del", f"{service}/32", "dev", "lo"], check=False)
    running.check()
    for wrong in ("198.51.100", "web", "224.0.0.1", "fe80::1"):
        assert reberth.move(word_of(node1, handle), "node2:", "--move-address", wrong, env=enabled).code == 2


def test_not_enabled(
    service: str, works: Stand, settings: Settings, reberth: Command, node1: Node, node2: Node
) -> None:
    """The wrapper is looked for before anything is asked of the nodes; the error says how to enable it."""
    own = settings(lambda text: text)
    handle = echo(works, service)
    words = (word_of(node1, handle), "node2:", KEEP, "--move-address", service)
    for name in ("node1", "node2"):
        done = reberth.move(*words, env=own)
        assert done.code == 14 and f"reberth node enable {name} address" in done.error, str(done)
        assert reberth.run("node", "enable", name, "address", env=own).code == 0
    assert reberth.move(*words, env=own).code == 0
    healthy(node2, handle)


def test_the_demo_with_one_connection(lab: Lab, watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(lab, as_json=True, one_connection=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["client"]["connections"] == 1 and found["verdict"]["lost"] == []
    assert found["verdict"]["acknowledged"] > 100
