"""The tutorial's backend as a stranger has it: installed beside a wheel, it keeps the contract and moves for real.

Live because a stranger's backend drives a real crun and criu.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from livekit.command import Command, as_text, with_path, with_wrappers
from livekit.snapshot import Watch

from reberth_lab import demo_bundle
from reberth_lab.node import Node

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TUTORIAL = ROOT / "docs/tutorial/reberth-crun"
INSTALL_LIMIT_S = 240
NAME = "tutored"


class Elsewhere(Command):
    """The command of another environment."""

    python: Path

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """As everywhere, under that environment's Python."""
        kept = {key: value for key, value in self.environment(env).items() if key != "VIRTUAL_ENV"}
        return subprocess.Popen(
            [str(self.python), "-m", "reberth", *words],
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def call(*argv: str | Path, cwd: Path | None = None) -> str:
    """Run a program to its end; the test fails with its words."""
    done = subprocess.run(
        list(map(str, argv)), capture_output=True, text=True, timeout=INSTALL_LIMIT_S, cwd=cwd, check=False
    )
    assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with two wheels: reberth, and the tutorial's distribution; returns its Python."""
    folder = tmp_path_factory.mktemp("fresh")
    call(sys.executable, "-m", "venv", folder / "venv")
    python: Path = folder / "venv/bin/python"
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    call(*pip, "wheel", "-q", "--no-deps", "-w", folder / "wheels", ROOT, TUTORIAL)
    wheels = sorted((folder / "wheels").glob("*.whl"))
    assert [wheel.name.partition("-")[0] for wheel in wheels] == ["reberth", "reberth_crun"]
    call(*pip, "install", "-q", *wheels, "pytest")
    return python


@pytest.fixture
def stranger(fresh: Path, reberth: Command) -> Elsewhere:
    """The command of that environment, with the session's state folder."""
    one = Elsewhere(reberth.config, reberth.state, reberth.ids)
    one.python = fresh
    return one


def with_crun(text: str) -> str:
    """The inventory with the new backend enabled on every node."""
    return re.sub(r"^backends = \[", 'backends = ["crun", ', text, flags=re.M)


def redis(node: Node, *words: str) -> str:
    """Ask the redis server on a node; empty when there is none."""
    return node.run(["redis-cli", *words], check=False).stdout.strip()


def run_id(node: Node) -> str:
    """The random word that a redis server makes at its start: the same one is the same memory."""
    found = re.search(r"run_id:(\w+)", redis(node, "info", "server"))
    return found[1] if found else ""


@pytest.fixture
def container(node1: Node, node2: Node, watch: Watch) -> Iterator[str]:
    """A redis in a container of crun on node1; returns its run id."""
    demo_bundle.build(node1)
    start = 'exec crun run --detach --bundle "$1" "$2" </dev/null >/dev/null 2>&1'
    node1.run(["sh", "-c", start, "sh", demo_bundle.BUNDLE, NAME])
    node1.run(["sh", "-c", "i=0; until redis-cli ping >/dev/null 2>&1 || [ $((i += 1)) -gt 100 ]; do sleep 0.05; done"])
    assert redis(node1, "set", "key", "kept") == "OK"
    yield run_id(node1)
    for node in (node1, node2):
        node.run(["crun", "delete", "--force", NAME], check=False)
        node.run(["rm", "-rf", "--", demo_bundle.BUNDLE])


def containers(node: Node) -> dict[str, str]:
    """What crun knows there: id -> status."""
    found = json.loads(node.run(["crun", "list", "--format", "json"]).stdout or "null") or []
    return {one["id"]: one["status"] for one in found}


def left(watch: Watch) -> list[str]:
    """What is not as it was, but for crun's own empty folder of records."""
    return [line for line in watch.leftovers() if not line.endswith(": /run/crun")]


def test_it_is_listed_and_keeps_the_contract(fresh: Path, stranger: Elsewhere, tmp_path: Path) -> None:
    """By its own test file alone, outside this repository."""
    listed = stranger.run("plugin", "ls")
    assert listed.code == 0, str(listed)
    assert re.search(r"^crun +backend +0\.1\.0 ", listed.stdout, re.M), listed.stdout
    text = (TUTORIAL / "test_reberth_crun.py").read_text(encoding="utf-8")
    (tmp_path / "test_reberth_crun.py").write_text(text, encoding="utf-8")
    said = call(fresh, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", tmp_path, cwd=tmp_path)
    assert re.search(r"^[4-9]\d passed", said, re.M), said


def test_it_moves_a_container_there_and_back(
    stranger: Elsewhere, container: str, watch: Watch, settings: Any, node1: Node, node2: Node
) -> None:
    """The same redis, with the same memory, on the other node; and then again where it was."""
    env = settings(with_crun)
    for here, there in ((node1, node2), (node2, node1)):
        done = stranger.move(f"{here.name}:crun/{NAME}", f"{there.name}:", env=env)
        assert done.code == 0, str(done)
        assert containers(there) == {NAME: "running"}
        assert containers(here) == {}
        assert run_id(there) == container
        assert redis(there, "get", "key") == "kept"


@pytest.mark.parametrize("phase", ["transfer-images", "restore"])
def test_a_failure_leaves_the_container(
    stranger: Elsewhere, container: str, watch: Watch, settings: Any, node1: Node, node2: Node, phase: str
) -> None:
    """Whatever fails, it runs on where it was, and the next move works."""
    running = watch.again()
    # A controller's own plugin that fails while the images are on their way; a bundle that is gone when crun wants it.
    strikes = {
        "transfer-images": [sys.executable, "-c", "raise SystemExit(1)"],
        "restore": node2.enter(["rm", "-r", "--", f"{demo_bundle.BUNDLE}/rootfs"]),
    }
    env = {
        **settings(lambda text: with_wrappers(with_crun(text), "saboteur")),
        **with_path(HERE / "saboteur"),
        "SABOTAGE_PHASE": phase,
        "SABOTAGE_CMD": as_text(strikes[phase]),
    }
    done = stranger.move(f"node1:crun/{NAME}", "node2:", env=env)
    assert (done.report["outcome"], done.report["owner"]) == ("rolled-back", "source"), str(done)
    assert containers(node1) == {NAME: "running"}
    assert containers(node2) == {}
    assert run_id(node1) == container
    assert left(running) == []
    done = stranger.move(f"node1:crun/{NAME}", "node2:", env={**env, "SABOTAGE_PHASE": "none"})
    assert done.code == 0, str(done)
    assert run_id(node2) == container
