"""The lab's kind vm itself: it comes, it stays when asked again, and nothing of it stays when it goes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from livekit.traces import traces

from reberth_lab.lab import NAMESPACE, VM, Lab
from reberth_lab.proc import LabError

FOLDERS = [str(Path(__file__).resolve().parents[2] / name) for name in ("core", "hooks", "plugins")]


def test_up_twice_then_down_leaves_nothing(vm_spare: Lab) -> None:
    lab = vm_spare
    lab.up(2, kind=VM)
    before = [(node.name, node.pid) for node in lab.nodes()]
    assert [name for name, _ in before] == ["node1", "node2"]
    node1, node2 = lab.nodes()
    assert node1.ssh(["hostname"]).stdout.strip() == "node1"
    assert node1.run(["ssh", "node2", "hostname"]).stdout.strip() == "node2"
    assert node2.run(["ssh", node1.address, "hostname"]).stdout.strip() == "node1"
    node1.write("/root/kept", "yes")
    lab.up(2)
    assert [(node.name, node.pid) for node in lab.nodes()] == before
    assert node1.read("/root/kept") == "yes"
    assert node1.run(["reberth", "--version"]).returncode == 0
    status = lab.status()
    assert (status["kind"], status["up"], status["left"]) == (VM, True, [])
    with pytest.raises(LabError, match="of kind vm"):
        lab.up(2, kind=NAMESPACE)
    lab.down()
    assert traces(lab.site) == []
    assert Lab(lab.site.name).status()["left"] == []


@pytest.mark.parametrize("then", ["down", "up"])
def test_up_killed_at_any_moment(vm_spare: Lab, then: str) -> None:
    delay_s = random.uniform(0, 5)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(FOLDERS), "REBERTH_LAB_NAME": vm_spare.site.name}
    with subprocess.Popen(
        [sys.executable, "-m", "reberth_lab", "up", "--kind", "vm", "--nodes", "1"],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and not vm_spare.site.lock_path.exists():
            time.sleep(0.001)
        time.sleep(delay_s)
        process.kill()
    print(f"killed after {delay_s:.3f} s, there was: {traces(vm_spare.site)}")
    if then == "up":
        vm_spare.up(1, kind=VM)
        assert vm_spare.node("node1").run(["hostname"]).stdout.strip() == "node1"
    vm_spare.down()
    assert traces(vm_spare.site) == []


def test_a_cut_link_and_a_crash(vm_lab: Lab) -> None:
    """The lab's own cable stays when the link is cut; a node that crashed comes back with a clean disk."""
    node1, node2 = vm_lab.node("node1"), vm_lab.node("node2")
    ping = ["ping", "-c", "1", "-W", "2", node2.address]
    assert node1.run(ping, check=False).returncode == 0
    vm_lab.link_down("node2")
    assert node1.run(ping, check=False).returncode != 0
    assert node2.run(["hostname"]).stdout.strip() == "node2"
    vm_lab.link_up("node2")
    assert node1.run(ping, check=False).returncode == 0
    vm_lab.tbf("node2", 8_000_000)
    assert "tbf" in node2.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout
    vm_lab.tbf("node2", None)
    assert "tbf" not in node2.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout
    node2.write("/root/lost", "yes")
    pid = node1.pid
    vm_lab.crash("node2")
    assert [node.name for node in vm_lab.nodes()] == ["node1"]
    with pytest.raises(LabError):
        node2.run(["true"])
    vm_lab.up(2)
    assert node1.pid == pid
    assert not node2.exists("/root/lost")


def test_a_time_limit_ends_the_program_inside(vm_lab: Lab) -> None:
    node = vm_lab.node("node1")
    with pytest.raises(subprocess.TimeoutExpired):
        node.run(["sleep", "4711"], timeout_s=1)
    assert "sleep 4711" not in node.run(["ps", "-eo", "args="]).stdout


def test_words_and_input_arrive_as_they_are(vm_lab: Lab) -> None:
    echo = ["sh", "-c", 'cat; printf "%s|" "$@"; exit 3', "sh", "a b", "", "'$x"]
    done = vm_lab.node("node1").run(echo, check=False, input="in ")
    assert (done.stdout, done.returncode) == ("in a b||'$x|", 3)
