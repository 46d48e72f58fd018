"""Every command that README.md, the how-to pages and CONTRIBUTING.md show is run, in the order of the page.

Live because the pages promise that these very commands work between machines.

Blocks fenced as `console` hold commands only, each after `$ `. What a command starts with says where it runs:

- `make`: `make -n`, in the checkout; what the targets do is tested elsewhere, and this test is part of one
- `sudo .venv/bin/reberth`: the same command of the reberth under test, with a lab name of this test's own
- `pipx`, `python3 -m venv`, `~/`: in the checkout, with an empty home folder; pipx comes from PyPI if it is missing
- all others: on a third lab node that stands for the reader's machine. In its /etc/hosts pi1.lan and pi2.lan, n1.lan
  and n2.lan are the lab's first two nodes, and it is a stranger to them: no inventory, no pinned keys. "Is this the
  key of the node?" is answered with y, and 4711 becomes the pid that the last `echo $!` printed.

docs/how-to/install.md has a test of its own (tests/packaging).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from livekit import tier

from reberth_lab import demo_bundle, keys
from reberth_lab.lab import Lab
from reberth_lab.node import Node

ROOT = Path(__file__).resolve().parents[2]
PIDS_FROM = 4700  # where node1 goes on counting, far from the target's pids
PACKAGES = "usr/local/lib/python3.13/dist-packages"


def commands(page: str) -> list[str]:
    """The commands of a page in their order."""
    blocks = re.findall(r"^```console\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def in_checkout(command: str) -> bool:
    return command.startswith(("make ", "sudo .venv/bin/reberth ", "pipx ", "python3 -m venv ", "~/"))


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node, Node]]:
    """pi1, pi2 and the reader's machine."""
    if os.geteuid() != 0:
        pytest.skip("three nodes need root: namespaces, mounts, links")
    lab = Lab(tier.lab_name("r"), say=lambda _: None)
    lab.down()
    try:
        lab.up(3)
        pi1, pi2, reader = (lab.node(f"node{number}") for number in (1, 2, 3))
        names = {"pi1.lan": pi1, "pi2.lan": pi2, "n1.lan": pi1, "n2.lan": pi2}
        hosts = reader.read("/etc/hosts") + "".join(f"{node.address} {name}\n" for name, node in names.items())
        reader.write("/etc/hosts", hosts)
        known = [
            f"{name} {keys.host_key(lab.site, n.name).with_suffix('.pub').read_text()}" for name, n in names.items()
        ]
        reader.write("/root/.ssh/known_hosts", "".join(known))  # the reader's own ssh has been there before
        with_tomlkit(reader)
        yield pi1, pi2, reader
    finally:
        lab.down()


def public_key(lab: Lab, node: Node) -> str:
    """The host key that a node shows."""
    return keys.host_key(lab.site, node.name).with_suffix(".pub").read_text("ascii").strip()


def with_tomlkit(node: Node) -> None:
    """What `reberth node add` needs to write the inventory, from this Python if the node has none."""
    if node.run(["python3", "-c", "import tomlkit"], check=False).returncode:
        spec = importlib.util.find_spec("tomlkit")
        shutil.copytree(Path(spec.origin).parent, node.root / PACKAGES / "tomlkit", dirs_exist_ok=True)


@pytest.fixture
def strangers(nodes: tuple[Node, Node, Node]) -> tuple[Node, Node, Node]:
    """The same nodes, the reader without inventory and history, and a container `web` on pi1 alone."""
    pi1, pi2, reader = nodes
    reader.run(["rm", "-rf", "/etc/reberth", "/var/lib/reberth"])
    for node in (pi1, pi2):
        node.run(["runc", "delete", "--force", "web"], check=False)
        node.run(["rm", "-rf", demo_bundle.BUNDLE])
    demo_bundle.build(pi1)
    pi1.run(["sh", "-c", 'exec runc run -d -b "$0" web </dev/null >/dev/null 2>&1', demo_bundle.BUNDLE])
    pi1.run(["sh", "-c", f"echo {PIDS_FROM} > /proc/sys/kernel/ns_last_pid"])
    return nodes


WHERE_WEB_ENDS = {  # the number of the node
    "README.md": 2,
    "docs/how-to/two-machines.md": 2,
    "docs/how-to/raspberry-pi.md": 1,
    "docs/how-to/two-node-cluster.md": 1,
}


@pytest.mark.parametrize("page", WHERE_WEB_ENDS)
def test_every_command_between_two_machines(page: str, strangers: tuple[Node, Node, Node]) -> None:
    pi1, pi2, reader = strangers
    said, pid = {}, "4711"
    todo = [command for command in commands(page) if not in_checkout(command)]
    assert len(todo) > 5
    for command in todo:
        real = command.replace("4711", pid)
        done = reader.run(["sh", "-c", real], check=False, timeout_s=120, input="y\n" if "node add" in real else None)
        assert done.returncode == 0, f"$ {real}\n{done.stdout}{done.stderr}"
        said[command] = done.stdout
        if "echo $!" in command:
            pid = done.stdout.strip()
            assert pid.isdecimal()
    where = strangers[WHERE_WEB_ENDS[page] - 1]
    assert json.loads(where.run(["runc", "state", "web"]).stdout)["status"] == "running"
    assert " moved " in said["reberth history"]
    runs = json.loads(reader.run(["reberth", "history", "--json"]).stdout)["runs"]
    moves = [
        command for command in todo if command.startswith(("reberth move", "reberth checkpoint", "reberth restore"))
    ]
    assert [run["outcome"] for run in runs] == ["moved"] * len(moves)
    for node in (pi1, pi2):
        left = node.run(["ls", "/var/lib/reberth"]).stdout.split()
        assert set(left) <= {"ended", "left-behind"}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command(page: str) -> None:
    todo = [command.split() for command in commands(page) if command.startswith("make ")]
    assert todo
    for words in todo:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        argv = ["make", "-n", *words[1:]]
        done = subprocess.run(argv, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"


def test_every_command_after_the_demo(tmp_path: Path) -> None:
    todo = [command for command in commands("README.md") if command.startswith("sudo .venv/bin/reberth ")]
    assert len(todo) == 2
    env = {**os.environ, "REBERTH_LAB_NAME": tier.lab_name("q"), "XDG_STATE_HOME": str(tmp_path)}
    for command in todo:
        words = command.removeprefix("sudo .venv/bin/reberth ").split()
        argv = [sys.executable, "-m", "reberth", *words]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def test_every_command_of_the_installation(tmp_path: Path) -> None:
    """Into an empty home folder, and what it installs runs."""
    todo = [command for command in commands("README.md") if command.startswith(("pipx ", "python3 -m venv ", "~/"))]
    assert len(todo) == 3
    own = {"HOME": str(tmp_path), "PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    path = os.environ["PATH"]
    if shutil.which("pipx") is None:
        subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "tools")], check=True, timeout=120)
        pip = str(tmp_path / "tools/bin/pip")
        subprocess.run([pip, "install", "-q", "pipx"], check=True, timeout=300, stdin=subprocess.DEVNULL)
        path = f"{path}:{tmp_path / 'tools/bin'}"
    for command in todo:
        argv = ["sh", "-c", command]
        env = {**os.environ, **own, "PATH": path}
        done = subprocess.run(
            argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    for program in ("bin/reberth", "reberth/bin/reberth"):
        done = subprocess.run([str(tmp_path / program), "--version"], capture_output=True, text=True, timeout=60)
        assert done.stdout.startswith("reberth "), done.stderr
