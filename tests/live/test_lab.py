"""The lab itself: nodes that reach each other, criu and runc at work in them, and nothing left after `down`.

Live because the lab is made of real namespaces, mounts, links and cgroups.

The tests have a lab of their own, so they do not disturb one that is up.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from livekit import tier
from livekit.traces import traces
from typer.testing import CliRunner

from reberth_lab import apt, demo_bundle, links, sysctl
from reberth_lab.cli import lab_commands
from reberth_lab.demo import run_demo
from reberth_lab.lab import Lab
from reberth_lab.proc import LabError
from reberth_lab.site import Site, default_subnet

NAME, SHARED = tier.lab_name("t"), tier.lab_name("s")
FOLDERS = [str(Path(__file__).resolve().parents[2] / name) for name in ("core", "hooks", "plugins")]
COUNT = 'i=0; while :; do i=$((i+1)); echo $i >>"$0"; sleep 0.02; done'

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(600),  # the first run makes the root filesystem
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root"),
]


def quiet(_: str) -> None:
    """Takes what the lab would tell its user."""


@pytest.fixture
def empty() -> Iterator[Lab]:
    """A lab that is down, and down again after the test."""
    lab = Lab(NAME, say=quiet)
    lab.down()
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def shared() -> Iterator[Lab]:
    """A lab of two nodes for the tests that only use it."""
    lab = Lab(SHARED, say=quiet)
    lab.down()
    lab.up(2)
    yield lab
    lab.down()


def wait_until_counts(node, path: str) -> int:
    """The last number in the counter's file, once it has grown."""
    first = last = None
    for _ in range(200):
        lines = node.run(["cat", path], check=False).stdout.split()
        last = int(lines[-1]) if lines else None
        first = last if first is None else first
        if last is not None and last > first:
            return last
        time.sleep(0.05)
    raise AssertionError(f"{path} does not grow: {last}")


def test_up_twice_then_down_leaves_nothing(empty: Lab) -> None:
    empty.up(2)
    before = [(node.name, node.pid) for node in empty.nodes()]
    empty.up(2)
    assert [(node.name, node.pid) for node in empty.nodes()] == before
    assert empty.status()["up"]
    assert traces(empty.site)
    empty.down()
    assert traces(empty.site) == []
    assert not empty.status()["up"]
    assert empty.status()["left"] == []
    empty.down()


def test_more_nodes_can_be_added(empty: Lab) -> None:
    empty.up(1)
    first = empty.node("node1").pid
    empty.up(3)
    assert empty.node("node1").pid == first
    names = [node.name for node in empty.nodes()]
    assert names == ["node1", "node2", "node3"]
    assert empty.node("node1").run(["ssh", "node3", "hostname"]).stdout.strip() == "node3"


def test_every_node_reaches_every_other(shared: Lab) -> None:
    for node in shared.nodes():
        assert node.ssh(["hostname"]).stdout.strip() == node.name
    for here, there in itertools.permutations(shared.nodes(), 2):
        assert here.run(["ssh", there.name, "hostname"]).stdout.strip() == there.name
        assert here.run(["ssh", there.address, "hostname"]).stdout.strip() == there.name


def test_a_wrong_host_key_is_refused(shared: Lab) -> None:
    node = shared.node("node2")
    words = node.ssh_argv(["true"])
    other = shared.site.state / "known_hosts_of_a_stranger"
    lines = (shared.site.state / "known_hosts").read_text(encoding="ascii").splitlines()
    key = next(line for line in lines if line.startswith("node1,")).partition(" ")[2]
    other.write_text(f"{node.address} {key}\n", encoding="ascii")
    changed = [word.replace(str(shared.site.state / "known_hosts"), str(other)) for word in words]
    done = subprocess.run(changed, capture_output=True, text=True, timeout=30)
    assert done.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr


def test_a_node_has_no_descriptor_and_no_mount_of_the_outer_machine(shared: Lab) -> None:
    node = shared.node("node1")
    outside = [os.readlink(path) for path in Path(f"/proc/{node.pid}/fd").iterdir()]
    assert sorted(outside) == ["/dev/null", "/var/log/lab-init.log", "/var/log/lab-init.log"]
    assert node.run(["ls", "/.outer"], check=False).returncode != 0
    mounts = node.run(["cat", "/proc/self/mountinfo"]).stdout.splitlines()
    kinds = {line.partition(" - ")[2].split()[0] for line in mounts}
    assert kinds == {"overlay", "proc", "sysfs", "cgroup2", "tmpfs", "devpts"}
    assert node.run(["cat", "/proc/self/cgroup"]).stdout.splitlines()[-1] == "0::/init"


def test_init_reaps_and_sshd_comes_back(shared: Lab) -> None:
    node = shared.node("node1")
    pid = node.spawn(["sh", "-c", "sleep 0.1 & exec sleep 0.05"])
    sshd = node.run(["pgrep", "-o", "-x", "sshd"]).stdout.strip()
    node.run(["kill", sshd])
    deadline = time.monotonic() + 20
    while node.run(["pgrep", "-o", "-x", "sshd"], check=False).stdout.strip() in ("", sshd):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    states = node.run(["ps", "-eo", "pid=,stat="]).stdout.split("\n")
    assert not [line for line in states if "Z" in line]
    assert str(pid) not in node.run(["ps", "-eo", "pid="]).stdout.split()


def test_time_out_ends_the_program_inside(shared: Lab) -> None:
    node = shared.node("node1")
    with pytest.raises(subprocess.TimeoutExpired):
        node.run(["sleep", "4711"], timeout_s=0.5)
    time.sleep(0.2)
    assert "sleep 4711" not in node.run(["ps", "-eo", "stat=,args="]).stdout


def test_criu_moves_a_process_from_node_to_node(shared: Lab) -> None:
    source, target = shared.node("node1"), shared.node("node2")
    pid = source.spawn(["sh", "-c", COUNT, "/root/count"])
    last = wait_until_counts(source, "/root/count")
    source.run(["mkdir", "-p", "/tmp/images"])
    source.run(["criu", "dump", "-D", "/tmp/images", "-t", str(pid)])
    source.run(["rsync", "-a", "/root/count", f"{target.name}:/root/"])
    source.run(["rsync", "-a", "/tmp/images", f"{target.name}:/tmp/"])
    target.run(["criu", "restore", "-d", "-D", "/tmp/images"])
    assert wait_until_counts(target, "/root/count") > last
    numbers = [int(word) for word in target.read("/root/count").split()]
    assert numbers == list(range(1, len(numbers) + 1))
    target.run(["kill", str(pid)])


def test_runc_checkpoint_and_restore_in_a_node(shared: Lab) -> None:
    node = shared.node("node1")
    demo_bundle.build(node)
    quietly = '"$@" </dev/null >/dev/null 2>&1'
    try:
        node.run(["sh", "-c", quietly, "sh", "runc", "run", "-d", "-b", demo_bundle.BUNDLE, "redis"])
        for attempt in range(100):
            if node.run(["redis-cli", "set", "a", "1"], check=False).stdout.strip() == "OK":
                break
            assert attempt < 99
            time.sleep(0.05)
        node.run(["mkdir", "/tmp/runc"])
        images = ["--image-path", "/tmp/runc", "--work-path", "/tmp/runc"]
        node.run(["runc", "checkpoint", *images, "redis"])
        assert node.run(["redis-cli", "get", "a"], check=False).returncode != 0
        node.run(["sh", "-c", quietly, "sh", "runc", "restore", "-d", "-b", demo_bundle.BUNDLE, *images, "redis"])
        assert node.run(["redis-cli", "get", "a"]).stdout.strip() == "1"
    finally:
        node.run(["runc", "delete", "--force", "redis"], check=False)


def test_the_demo_loses_nothing_by_the_plain_way(shared: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(shared, plain=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "0 acknowledged writes lost"
    assert "served by node1 then node2" in lines[1]


def test_cable_and_bandwidth(shared: Lab) -> None:
    node = shared.node("node2")
    ping = ["ping", "-c", "1", "-W", "1", node.address]
    here = shared.node("node1")
    assert here.run(ping, check=False).returncode == 0
    shared.link_down("node2")
    assert here.run(ping, check=False).returncode != 0
    shared.link_up("node2")
    for attempt in range(10):
        if here.run(ping, check=False).returncode == 0:
            break
        assert attempt < 9
    send = "head -c 2000000 /dev/zero | ssh node2 'cat >/dev/null'"
    shared.tbf("node2", 8_000_000)
    started = time.monotonic()
    here.run(["sh", "-c", send])
    slow_s = time.monotonic() - started
    shared.tbf("node2", None)
    started = time.monotonic()
    here.run(["sh", "-c", send])
    assert slow_s > time.monotonic() - started + 1  # 2 MB at 1 MB/s, against no limit


def test_a_crashed_node_comes_back_and_the_other_one_lives(empty: Lab) -> None:
    empty.up(2)
    other = empty.node("node2").pid
    empty.crash("node1")
    with pytest.raises(LabError):
        empty.node("node1").run(["true"])
    assert [node.name for node in empty.nodes()] == ["node2"]
    empty.up(2)
    assert empty.node("node2").pid == other
    assert empty.node("node2").run(["ssh", "node1", "hostname"]).stdout.strip() == "node1"


def test_reberth_is_found_inside_by_its_entry_points(shared: Lab) -> None:
    program = "import importlib.metadata as m; print(*(p.name for p in m.entry_points(group='reberth')))"
    assert "lab" in shared.node("node1").run(["python3", "-c", program]).stdout.split()
    assert shared.node("node1").run(["python3", "-c", "import reberth_hooks, reberth_lab"]).returncode == 0


@pytest.mark.parametrize("trial", range(5))
def test_up_killed_at_any_moment(empty: Lab, trial: int) -> None:
    delay_s = random.uniform(0, 0.5)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(FOLDERS), "REBERTH_LAB_NAME": NAME}
    with subprocess.Popen(
        [sys.executable, "-m", "reberth_lab", "up"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not empty.site.lock_path.exists():
            time.sleep(0.001)
        time.sleep(delay_s)
        process.kill()
    print(f"trial {trial}: killed after {delay_s:.3f} s, there was: {traces(empty.site)}")
    if trial % 2:
        empty.down()
        assert traces(empty.site) == []
    empty.up(2)
    assert empty.node("node1").run(["ssh", "node2", "hostname"]).stdout.strip() == "node2"
    empty.down()
    assert traces(empty.site) == []


def test_pipe_limit_is_put_back_by_the_last_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "pipe-max-size"
    limit.write_text("1048576\n", encoding="ascii")
    monkeypatch.setattr(sysctl, "LIMIT", limit)
    monkeypatch.setattr(sysctl, "MEMORY", tmp_path / "memory.json")
    monkeypatch.setattr(sysctl, "LOCK", tmp_path / "memory.lock")
    monkeypatch.setattr(sysctl, "may_exceed", lambda: False)
    sites = [Site(name, default_subnet(name), tmp_path / name, tmp_path) for name in ("a", "b")]
    for site in sites:
        site.state.mkdir()
        sysctl.raise_limit(site)
    assert int(limit.read_text(encoding="ascii")) == sysctl.WANTED_BYTES
    sysctl.put_back(sites[0])
    assert int(limit.read_text(encoding="ascii")) == sysctl.WANTED_BYTES
    sysctl.put_back(sites[1])
    sysctl.put_back(sites[1])
    assert int(limit.read_text(encoding="ascii")) == 1048576
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "pipe-max-size"]


def test_a_foreign_interface_is_never_touched(empty: Lab) -> None:
    subprocess.run(["ip", "link", "add", "name", empty.site.bridge, "type", "bridge"], check=True)
    try:
        with pytest.raises(LabError, match="not the lab's"):
            empty.up(1)
        empty.down()
        assert links.exists(empty.site.bridge)
    finally:
        subprocess.run(["ip", "link", "del", "dev", empty.site.bridge], check=True)


def test_command_line(shared: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REBERTH_LAB_NAME", shared.site.name)
    runner = CliRunner()
    done = runner.invoke(lab_commands(), ["status", "--json"])
    assert done.exit_code == 0
    assert [node["name"] for node in json.loads(done.stdout)["nodes"]] == ["node1", "node2"]
    assert runner.invoke(lab_commands(), ["up"]).stdout.strip() == f"export REBERTH_CONFIG={shared.config_path}"
    assert runner.invoke(lab_commands(), ["up", "--kind", "cloud"]).exit_code == 10
    assert runner.invoke(lab_commands(), ["ssh", "node9"]).exit_code == 10


def test_too_little_space_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: Lab
) -> None:
    from reberth_lab import rootfs

    monkeypatch.setenv("REBERTH_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rootfs, "NEED_BYTES", 1 << 60)
    with pytest.raises(LabError, match="free") as caught:
        Lab(NAME, say=quiet).up(1)
    assert "REBERTH_LAB_CACHE" in caught.value.hint
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["build.lock"]
    assert traces(empty.site) == []


ONE_LINE = "deb cdrom:[Debian]/ trixie main\ndeb [arch=amd64] http://deb.example/debian/ bookworm main # comment\n"
DEB822 = (
    "Enabled: no\nTypes: deb\nURIs: http://no.example/debian\nSuites: trixie\nComponents: main\n\n"
    "Types: deb\nURIs: http://security.example/debian-security\nSuites: trixie-security\nComponents: main\n\n"
    "Types: deb deb-src\nURIs: http://deb.example/debian\nSuites: trixie trixie-updates\nComponents: main\n"
)


@pytest.mark.parametrize(("name", "text"), [("sources.list", ONE_LINE), ("sources.list.d/debian.sources", DEB822)])
def test_the_mirror_is_the_one_of_the_machine(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REBERTH_LAB_MIRROR", raising=False)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert apt.find_mirror(tmp_path).uri == "http://deb.example/debian"
    (tmp_path / name).unlink()
    with pytest.raises(LabError) as caught:
        apt.find_mirror(tmp_path)
    assert "REBERTH_LAB_MIRROR" in caught.value.hint
