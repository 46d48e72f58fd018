"""A service address moves with its workload: open connections of peers outside go on, also after a rollback."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from livekit.command import Command, with_wrappers
from livekit.rollback import check_rolled_back
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from livekit.talk import Talk
from workloads.driver import Handle

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
    yield f"{V6}{HOST}"
    subprocess.run(["ip", "address", "del", f"{V6}fe/64", "dev", lab.site.bridge], check=True)
    for number, node in enumerate((node1, node2), 1):
        for last in (number, HOST):
            node.run(["ip", "address", "del", f"{V6}{last}/64", "dev", interface(node)], check=False)


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
    works: Stand,
    watch: Watch,
    service: str,
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


@pytest.mark.parametrize("phase", ["restore", "commit-before"])
@pytest.mark.parametrize("container", [False, True])
def test_connections_go_on_after_a_rollback(
    phase: str,
    container: bool,
    works: Stand,
    service: str,
    sabotage: Sabotage,
    reberth: Command,
    node1: Node,
    node2: Node,
) -> None:
    """The restore fails after the address has moved, or ^C comes while the copy is held: back, and nobody noticed."""
    handle = echo(works, service, container)
    talk = Talk(service, PORT, 20)
    talk.wait_for(50)
    if phase == "restore":
        # The address is on the target already when this strikes: its wrapper is called before.
        strike = node2.enter(["sh", "-c", f"ip -o address | grep -q ' {service}/' && rm -r @images@/core-*.img"])
    else:
        strike = ["kill", "-INT", "@pid@"]
    env = {**sabotage("restore", strike, 0.0 if phase == "restore" else 0.05)}
    text = re.sub(r"wrappers = .*", 'wrappers = ["saboteur", "address"]', read(env["REBERTH_CONFIG"]))
    write(env["REBERTH_CONFIG"], text)
    done = reberth.move(word_of(node1, handle), "node2:", KEEP, "--move-address", service, env=env)
    check_rolled_back(done)
    talk.wait_for(100)
    assert has(node1, service) and not has(node2, service)
    healthy(node1, handle)
    assert gone(node2, handle)
    check_talk(talk, "rolled back")


def read(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
