"""LXD: two real daemons in two nodes, whose criu is held while they move a container.

Live because LXD decides by itself what it accepts and what it leaves.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from livekit import crowd
from livekit import lxd as kit
from livekit.command import Command, Done, journal_of

from reberth.testing.tool import first_line
from reberth_lab import lxd as lab_lxd
from reberth_lab.node import Node

pytestmark = pytest.mark.timeout(300)
NAME = "c1"
KEY = "migration.incremental.memory"


@pytest.fixture(scope="module")
def nodes(lxd_nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    """Two nodes with LXD."""
    return lxd_nodes


@pytest.fixture(scope="module")
def command(nodes: Sequence[Node], tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(nodes[0].site.config_path, tmp_path_factory.mktemp("state"))


@pytest.fixture
def counter(nodes: Sequence[Node]) -> Iterator[str]:
    """A fresh container on node1; nothing of it stays."""
    yield from kit.fresh(nodes, NAME)


def test_it_arrives_whole_with_its_keys(nodes: Sequence[Node], command: Command, counter: str) -> None:
    """The keys are as they were, whatever the move needed, and the old one is gone."""
    here, there = nodes
    kit.lxc(here, "config", "set", counter, "migration.incremental.memory=false")
    kit.lxc(here, "config", "set", counter, "migration.incremental.memory.iterations=4")
    config, before = kit.config(here, counter), kit.healthy(here, counter)
    done = command.move(f"node1:{counter}", "node2:")
    assert done.code == 0, str(done)
    after = kit.healthy(there, counter, before)
    assert kit.config(there, counter) == config and kit.status(here, counter) == ""
    assert kit.traces(nodes) == []
    assert abs(after["longest_silence_s"] - done.report["downtime_s"]) < max(0.3 * after["longest_silence_s"], 0.1)
    # The twin: what a careless copy would lose is seen.
    there.run(["truncate", "-s", "-16", f"/var/lib/lxd/containers/{counter}/rootfs/var/log/beats"])
    assert kit.ask(there, counter)["bad_lines"] > 0
    spoil = 'for file in "$1"/var/log/seconds/*; do echo 000000000000000 >"$file"; done'
    there.run(["sh", "-c", spoil, "sh", kit.root_of(there, counter)])
    assert kit.ask(there, counter)["bad_seconds"] > 0
    # This liblxc cannot dump what was restored; that is known before anything is touched.
    back = command.move(f"node2:{counter}", "node1:")
    assert back.code == 10 and "dumped-before" in back.error and "lxc restart" in back.error, str(back)


@pytest.mark.parametrize("side", [0, 1], ids=["source", "target"])
def test_a_daemon_dies(nodes: Sequence[Node], command: Command, counter: str, side: int) -> None:
    """While the data travels; the container goes on where it was."""
    before = kit.healthy(nodes[0], counter)
    process = command.start("move", "--json", "--", f"node1:{counter}", "node2:")
    _wait_for_dump(nodes[0])
    lab_lxd.stop(nodes[side])
    done = command.finish(process)
    lab_lxd.start(nodes[side])
    assert done.code == 20, str(done)
    kit.healthy(nodes[0], counter, before)
    _recovered(command, done)
    assert kit.status(nodes[1], counter) in ("", "Stopped")


def _wait_for_dump(node: Node) -> None:
    deadline = time.monotonic() + 120  # seconds on a quiet machine; the test's own limit is longer
    while node.run(["pgrep", "-f", "migratedumpsuccess"], check=False).returncode:
        assert time.monotonic() < deadline, "no dump began"
        time.sleep(0.02)


def _recovered(command: Command, done: Done) -> None:
    again = command.run("recover", "--json")
    assert again.code == 0, str(again)


def test_the_controller_dies(nodes: Sequence[Node], command: Command, counter: str) -> None:
    """The helpers act alone, and hold the daemons' criu until the daemons have given up."""
    before = kit.healthy(nodes[0], counter)
    process = command.start("move", "--json", "--", f"node1:{counter}", "node2:")
    _wait_for_dump(nodes[0])
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 120
    while kit.traces(nodes):
        assert time.monotonic() < deadline, kit.traces(nodes)
        time.sleep(0.5)
    kit.healthy(nodes[0], counter, before)
    again = command.run("recover", "--json")
    assert again.code == 0, str(again)
    assert kit.status(nodes[1], counter) == ""
    assert journal_of(command.state, again.report["runs"][0]["id"])[-1]["outcome"] == "rolled-back"


CLIENT = """{first_line}
import os, sys
from reberth_lab.lab import Lab
if sys.argv[1] == "move":
    print("native", *sys.argv[1:], os.environ.get("LXC_ALIASES"))
    sys.exit(7)
words = Lab({lab!r}, say=lambda _: None).node("node1").enter(["lxc", *sys.argv[1:]], {{"LXC_ALIASES": "1"}})
os.execvp(words[0], words)
"""


@pytest.fixture
def client(nodes: Sequence[Node], tmp_path: Path) -> dict[str, str]:
    """An `lxc` on this machine that is node1's real one, except that its `move` only tells its words."""
    path = tmp_path / "lxc"
    path.write_text(CLIENT.format(first_line=first_line(sys.executable), lab=nodes[0].site.name))
    path.chmod(0o755)
    places = [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {"PATH": os.pathsep.join(places), "LXD_CONF": str(tmp_path / "conf")}


def test_the_clients_alias(nodes: Sequence[Node], command: Command, counter: str, client: dict[str, str]) -> None:
    """With the key true `lxc move` is ours, with our real number of rounds; with it false it is the native client."""
    here, there = nodes
    for word in ("install", "install", "status"):
        done = command.run("lxd", "alias", word, env=client)
        assert done.code == 0, str(done)
    assert "lxd shim lxc @ARGS@" in done.stdout and "move" in kit.lxc(here, "alias", "list", "-f", "csv")
    kit.lxc(here, "config", "set", counter, f"{KEY}=false")
    native = command.run("lxd", "shim", "lxc", f"node1:{counter}", "node2:", "-v", env=client)
    assert (native.code, native.stdout) == (7, f"native move node1:{counter} node2: -v 1\n")
    both = ("--goal", "80", "--no-profiles")
    wrong = command.run("lxd", "shim", "lxc", f"node1:{counter}", "node2:", *both, env=client)
    assert wrong.code == 2 and "--no-profiles" in wrong.stderr, str(wrong)
    for key, value in ((KEY, "true"), (f"{KEY}.iterations", "4"), (f"{KEY}.goal", "80")):
        kit.lxc(here, "config", "set", counter, f"{key}={value}")
    config, before = kit.config(here, counter), kit.healthy(here, counter)
    ours = command.run("lxd", "shim", "lxc", f"node1:{counter}", f"node2:{counter}", env=client)
    assert ours.code == 0 and "moved" in ours.stdout, str(ours)
    assert f"{KEY} is true" in ours.stderr, ours.stderr
    kit.healthy(there, counter, before)
    assert kit.config(there, counter) == config
    assert command.run("lxd", "alias", "remove", env=client).code == 0
    assert kit.lxc(here, "alias", "list", "-f", "csv") == ""


def test_the_old_one_is_kept_on_request(nodes: Sequence[Node], command: Command, counter: str) -> None:
    """Stopped, with its keys as they were, and nothing starts it; a snapshot of before the move is on no side."""
    kit.lxc(nodes[0], "config", "set", counter, f"{KEY}=true")
    before = kit.healthy(nodes[0], counter)
    done = command.move(f"node1:{counter}", "node2:", "--keep-source", "--snapshot-first")
    assert done.code == 0, str(done)
    kit.healthy(nodes[1], counter, before)
    assert kit.status(nodes[0], counter) == "Stopped" and kit.config(nodes[0], counter)[KEY] == "true"
    for node in nodes:
        assert kit.state(node, counter).get("snapshots") in (None, []), kit.state(node, counter)
    lab_lxd.stop(nodes[0])
    lab_lxd.start(nodes[0])
    deadline = time.monotonic() + 30  # a daemon that has just started does not know its containers at once
    while not (status := kit.status(nodes[0], counter)):
        assert time.monotonic() < deadline, "the daemon knows no such container any more"
        time.sleep(0.2)
    assert status == "Stopped"


def test_many_at_once(nodes: Sequence[Node], command: Command) -> None:
    """The node's one line in CRIU's configuration serves them all, and harms no stranger (`make soak`: ten)."""
    crowd.check(nodes, command, 2)


NEWER = """
import http.server, json, socketserver
class Server(socketserver.UnixStreamServer):
    pass
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = {"server": "lxd", "server_version": "6.6", "server_pid": 1, "addresses": ["192.0.2.1:8443"]}
        able = ["restrict_devlxd", "instances", "migration_pre_copy"]  # names stay in the list when the thing has gone
        found = {"auth": "trusted", "api_extensions": able, "environment": said} if self.path == "/1.0" else None
        data = json.dumps({"type": "sync", "metadata": found} if found else {"type": "error", "error": "x"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    address_string = lambda self: "unix"
Server("/run/newer.socket", Handler).serve_forever()
"""


@pytest.mark.parametrize("side", ["node1", "node2"])
def test_emulated_lxd_6_6_is_refused_with_a_way_out(
    nodes: Sequence[Node], tmp_path: Path, counter: str, side: str
) -> None:
    """A server that says what LXD 6.6 says of itself, on either node; the container is not touched."""
    node = nodes[side == "node2"]
    before = kit.healthy(nodes[0], counter)
    text = nodes[0].site.config_path.read_text("utf-8")
    (tmp_path / "config.toml").write_text(f'{text}\n[nodes.{side}.lxd]\nsocket = "/run/newer.socket"\n')
    pid = node.spawn(["python3", "-c", NEWER])
    try:
        node.run(["sh", "-c", "until [ -S /run/newer.socket ]; do sleep 0.1; done"], timeout_s=20)
        done = Command(tmp_path / "config.toml", tmp_path).move(f"node1:lxd/{counter}", "node2:")
    finally:
        node.run(["kill", str(pid)], check=False)
        node.run(["rm", "-f", "/run/newer.socket"])
    assert done.code == 10 and "removed in 6.6" in done.error, str(done)
    assert "use Incus" in done.error and "near-live" in done.error
    kit.healthy(nodes[0], counter, before)
    assert kit.traces(nodes) == [] and kit.status(nodes[1], counter) == ""
