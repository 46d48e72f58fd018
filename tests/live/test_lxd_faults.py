"""LXD: what a move leaves when a daemon, the controller or the network goes in each phase, or the restore fails.

Live because what LXD does when a daemon or the network goes cannot be read off its API.

Whatever happens: one copy, whole, that runs; its configuration as before; and `reberth recover` finishes the run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from livekit import crowd, lxdtraps
from livekit import lxd as kit
from livekit.command import Command, journal_of

from reberth_lab import lxd as lab_lxd
from reberth_lab.lab import Lab
from reberth_lab.node import Node

pytestmark = pytest.mark.timeout(300)
NAME = "c1"
KEY = "migration.incremental.memory"
ALL = os.environ.get("REBERTH_LXD_FAULTS", "") == "all"  # `make soak`; `make test` has time for a sample
AFTER_S = 90  # the daemons of both sides give up by themselves, one minute each


@pytest.fixture(scope="module")
def lab(lxd_lab: Lab) -> Lab:
    """The lab with LXD, whose links are cut."""
    return lxd_lab


@pytest.fixture(scope="module")
def nodes(lxd_nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    """Two nodes with LXD."""
    return lxd_nodes


@pytest.fixture(scope="module")
def command(nodes: Sequence[Node], tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(nodes[0].site.config_path, tmp_path_factory.mktemp("state"))


@pytest.fixture
def counter(nodes: Sequence[Node]) -> Iterator[str]:
    """A fresh container on node1 with keys of its own; nothing of it stays.

    LXD 5.0.2 stays "busy" with the name after a failed restore, until it is restarted.
    """
    kit.delete(nodes, NAME)
    kit.launch(nodes[0], NAME, "-c", f"{KEY}=false", "-c", f"{KEY}.goal=55")
    yield NAME
    for node in nodes:
        lab_lxd.stop(node)
        lab_lxd.start(node)
    kit.delete(nodes, NAME)


def newest(state: Path, before: set[str]) -> str:
    """The run that was begun since, empty as long as there is none."""
    place = state / "reberth/runs"
    return next((path.name for path in place.glob("*") if path.name not in before), "") if place.is_dir() else ""


def begin(command: Command, moment: str) -> tuple[subprocess.Popen[str], str]:
    """Start a move and come back, with its id, when its journal says that this moment has come."""
    place = command.state / "reberth/runs"
    before = {path.name for path in place.glob("*")}
    process = command.start("move", "--json", "--", f"node1:{NAME}", "node2:")
    deadline = time.monotonic() + 90
    while True:
        run = newest(command.state, before)
        with contextlib.suppress(FileNotFoundError, ValueError):
            if run and any(MOMENTS[moment](record) for record in journal_of(command.state, run)):
                return process, run
        assert process.poll() is None, f"the move never came so far: {command.finish(process)}"
        assert time.monotonic() < deadline, "the move never came so far"
        time.sleep(0.01)


def noted(key: str) -> Callable[[dict[str, object]], bool]:
    return lambda record: record["event"] == "note" and record.get("key") == key


def stepped(step: str) -> Callable[[dict[str, object]], bool]:
    return lambda record: record["event"] == "step" and record.get("step") == step


MOMENTS: dict[str, Callable[[dict[str, object]], bool]] = {
    "first-copy": noted("operation.target"),
    "held": noted("held"),
    "permit": stepped("permit"),
    "commit": stepped("commit"),
}


def settle(nodes: Sequence[Node], command: Command, run: str) -> dict[str, object]:
    """Let the nodes end their part and `recover` the rest; returns the end of the run, after which nothing is left."""
    deadline = time.monotonic() + AFTER_S
    while True:
        again = command.run("recover", "--json")
        if again.code == 0 and not kit.traces(nodes):
            return journal_of(command.state, run)[-1]
        assert time.monotonic() < deadline, f"{again}\n{kit.traces(nodes)}"
        time.sleep(1.0)


def one_copy(nodes: Sequence[Node], before: dict[str, object], config: dict[str, str]) -> Node:
    """Where it runs: on one node alone, whole, going on, with its configuration as before."""
    found = [node for node in nodes if kit.status(node, NAME) == "Running"]
    assert len(found) == 1, {node.name: kit.status(node, NAME) for node in nodes}
    kit.healthy(found[0], NAME, before)
    assert kit.config(found[0], NAME) == config
    return found[0]


# Where it must run in the end, by what the command said: moved, gone back, or open until the daemon is there again.
ENDS = {0: ("node2",), 20: ("node1",), 40: ("node1", "node2"), 41: ("node1", "node2")}
CASES = [
    ("target", "first-copy", (20,)),
    ("target", "held", (20, 41)),
    ("target", "permit", (20, 41)),
    ("target", "commit", (0, 41)),
    ("source", "first-copy", (20,)),
    ("source", "held", (20, 41)),  # 41: the kill came a moment late, after the permission
    ("source", "permit", (20, 41)),
    ("source", "commit", (0, 41)),
]


SAMPLE = CASES if ALL else CASES[2:3]


@pytest.mark.parametrize(("side", "moment", "codes"), SAMPLE, ids=[f"{c[0]}-{c[1]}" for c in SAMPLE])
def test_a_daemon_dies(
    nodes: Sequence[Node], command: Command, counter: str, side: str, moment: str, codes: tuple[int, ...]
) -> None:
    """Killed, and started again when the move has ended; `codes` are the ends that the command may have then."""
    before, config = kit.healthy(nodes[0], counter), kit.config(nodes[0], counter)
    process, run = begin(command, moment)
    victim = nodes[side == "target"]
    lab_lxd.stop(victim)
    done = command.finish(process)
    lab_lxd.start(victim)
    assert done.code in codes, str(done)
    end = settle(nodes, command, run)
    home = one_copy(nodes, before, config)
    print(f"{side}-{moment}: exit {done.code}, then {end['outcome']}, on {home.name}")
    assert home.name in ENDS[done.code] and (home is nodes[1] or moment != "commit"), str(done)
    assert end["outcome"] == ("rolled-back" if home is nodes[0] else "moved")
    assert kit.status(nodes[home is nodes[0]], counter) in ("", "Stopped")


@pytest.mark.parametrize("moment", ["first-copy", "held", "commit"] if ALL else ["commit"])
def test_the_controller_dies(nodes: Sequence[Node], command: Command, counter: str, moment: str) -> None:
    """The nodes end it alone, whichever end that is."""
    before, config = kit.healthy(nodes[0], counter), kit.config(nodes[0], counter)
    process, run = begin(command, moment)
    process.kill()
    process.communicate()
    end = settle(nodes, command, run)
    home = one_copy(nodes, before, config)
    print(f"controller-{moment}: {end['outcome']}, on {home.name}")
    assert home.name == "node1" or moment == "commit"
    assert kit.status(nodes[home is nodes[0]], counter) == ""


@pytest.mark.parametrize("moment", ["first-copy", "held"] if ALL else ["held"])
def test_the_network_goes(lab: Lab, nodes: Sequence[Node], command: Command, counter: str, moment: str) -> None:
    """The target is cut off, from its peer and from the controller, and comes back when the move has ended."""
    before, config = kit.healthy(nodes[0], counter), kit.config(nodes[0], counter)
    process, run = begin(command, moment)
    lab.link_down("node2")
    try:
        done = command.finish(process)
        assert done.code in ((20,) if moment == "first-copy" else (20, 40)), str(done)
        if done.code == 20:
            kit.healthy(nodes[0], counter, before)
    finally:
        lab.link_up("node2")
    end = settle(nodes, command, run)
    home = one_copy(nodes, before, config)
    print(f"network-{moment}: exit {done.code}, then {end['outcome']}, on {home.name}")
    assert home.name in ENDS[done.code], str(done)


def whole(node: Node) -> dict[str, object]:
    """All that the daemon keeps of the container's configuration."""
    state = kit.state(node, NAME)
    kept = ("architecture", "description", "devices", "ephemeral", "profiles", "stateful", "snapshots")
    return {"config": kit.config(node, NAME), **{key: state.get(key) for key in kept}}


TRAPS = lxdtraps.TRAPS if ALL else lxdtraps.TRAPS[1:2]  # the first one is what test_incus.py tries


@pytest.mark.parametrize("trap", TRAPS, ids=[trap.name for trap in TRAPS])
def test_the_restore_fails_fast(nodes: Sequence[Node], command: Command, counter: str, trap: lxdtraps.Trap) -> None:
    """The daemons then report failure, or success and end the source: it is never taken for a move."""
    here, there = nodes
    kept = f"/var/lib/lxd/containers/{NAME}/rootfs/root/kept"
    here.write(kept, "as it was\n")
    before, config = kit.healthy(here, NAME), whole(here)
    skip = ("--skip", trap.check) if trap.check else ()
    with lxdtraps.laid(there, trap):
        if trap.check:
            found = command.move(f"node1:{NAME}", "node2:")
            assert found.code == 10 and trap.check in found.error, str(found)
        done = command.move(f"node1:{NAME}", "node2:", *skip)
        assert not trap.harm or lxdtraps.restores(there) == 1
    assert done.code == 20 and done.report["outcome"] == "rolled-back", str(done)
    assert done.report["error"]["phase"] == "final-dump" and trap.word in done.error, str(done)
    after = kit.healthy(here, NAME, before)
    assert whole(here) == config and here.read(kept) == "as it was\n"
    assert kit.status(there, NAME) == ""
    settle(nodes, command, done.report["id"])
    notes = [r for r in journal_of(command.state, done.report["id"]) if r["event"] == "note"]
    said = next((r["value"] for r in notes if r["key"] == "ended.target"), {})
    print(f"{trap.name}: the target's daemon ended with {said}; longest silence {after['longest_silence_s']} s")


if ALL:

    @pytest.mark.parametrize("turn", range(3))
    @pytest.mark.timeout(900)
    def test_ten_at_once(nodes: Sequence[Node], command: Command, turn: int) -> None:
        """All arrive, three times."""
        crowd.check(nodes, command, 10)

    @pytest.mark.timeout(900)
    def test_sixteen_processes_at_once(nodes: Sequence[Node], command: Command) -> None:
        """The same with the backend criu."""
        crowd.check_processes(nodes, command, 16)
