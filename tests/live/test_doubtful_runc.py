"""Odd workloads as containers: what the preflight says of them is what CRIU under runc then does.

Live because what criu and runc do with an odd container is known by asking them.

The same programs as in test_doubtful.py, as the first process of a container with namespaces of its own: some of what
cannot move outside can move here, and the preflight must know.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doubtful import files, sockets, tasks  # noqa: F401
from livekit import stand
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import keep_pids_apart, remove_empty_cgroups
from workloads import driver

from reberth_lab.node import Node

HERE = Path(__file__).parent
PLACE = "/var/lib/odd"
READY_S = 20.0
# Kind -> the checks that must fail for it; none: it moves. The good sockets and tasks of test_doubtful.py are not among
# them: making them takes rights that this container does not have.
STATES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "io-uring": ("io-uring",),
    "hugetlb": ("hugetlb",),
    "ghost-large": ("ghosts",),
    "other-name": (),
    "inotify": ("watches",),
    "mptcp": ("sockets",),
    "tcp-unaccepted": ("tcp", "tcp-unaccepted"),
    "traced": ("traced",),
    "nested-user": ("nested",),
    "sysv-segment": (),
    "sysv-queue": (),
    "dead-leader": ("dead-leader",),
    "shared-memory": ("shared-vm",),
}


@pytest.fixture
def allowed(settings: Callable[[Callable[[str], str]], dict[str, str]]) -> dict[str, str]:
    """The bundles take /usr of the node: the target must allow that."""
    return settings(lambda text: f'{text}\n[nodes.node2.runc]\nallow_mounts = ["/usr"]\n')


@pytest.fixture
def container(request: pytest.FixtureRequest, node1: Node, node2: Node) -> Iterator[str]:
    """A container whose first process is the program, in its state; returns its name."""
    kind = request.node.callspec.params["kind"]
    keep_pids_apart((node1, node2))
    driver.bundle(node1, PLACE, ["memory"], mounted=True)
    root = node1.root / PLACE.lstrip("/")
    shutil.copytree(HERE / "doubtful", root / "rootfs/doubtful", ignore=shutil.ignore_patterns("__pycache__"))
    config = json.loads((root / "config.json").read_text())
    python = config["process"]["args"][0]
    config["process"]["args"] = [python, "-S", "-B", "-m", "doubtful", kind, "/state", "here"]
    (root / "config.json").write_text(json.dumps(config))
    state = root / "rootfs/state"
    for name in ("one", "two", "three", "only-here", "other-size", "other-mode"):
        (state / name).write_text("text")
    (state / "beats").write_text("00000000")
    try:
        words = ["sh", "-c", 'exec runc run -d --bundle "$0" "$1" </dev/null >"$0/log" 2>&1', PLACE, f"odd-{kind}"]
        node1.run(words)
        end_s = time.monotonic() + READY_S
        while not (state / "ready").exists() and not (state / "error").exists():
            assert time.monotonic() < end_s, (root / "log").read_text()
            time.sleep(0.02)
        if (state / "error").exists():
            text = (state / "error").read_text().strip().splitlines()[-1]
            if stand.not_here(text):
                pytest.skip(f"this machine's kernel gives no {kind}: {text}")
            raise AssertionError(text)
        yield f"odd-{kind}"
    finally:
        for node in (node2, node1):
            node.run(["runc", "delete", "--force", f"odd-{kind}"], check=False)
            node.run(["rm", "-rf", "--", PLACE])
            remove_empty_cgroups(node)


def beats(node: Node) -> bool:
    """Whether the program runs on this node."""
    return stand.beats(node.root / PLACE.lstrip("/") / "rootfs/state/beats")


@pytest.mark.parametrize("kind", STATES)
def test_the_preflight_says_what_criu_does(
    kind: str, watch: Watch, container: str, allowed: dict[str, str], reberth: Command, node1: Node, node2: Node
) -> None:
    checks = STATES[kind]
    skips = [word for check in checks for word in ("--skip", check)]
    done = reberth.move(f"node1:runc/{container}", "node2:", *skips, env=allowed)
    failed = {c["id"] for c in done.report.get("checks", ()) if c["reason"].endswith("(skipped on request)")}
    assert failed == set(checks), str(done)
    if checks:
        assert (done.code, done.report["owner"]) == (20, "source"), f"a false alarm: {done}"
        assert beats(node1)
    else:
        assert done.code == 0, f"a false fine: {done}"
        assert beats(node2)
