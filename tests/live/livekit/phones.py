"""Phones of the lab for the tests: an adb server of their own, snapshots of /data, and a controller that can die."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from reberth.commands.controller import Controller
from reberth_android import cli, device
from reberth_hooks import Node
from reberth_lab.android import Phone

LIMIT_S = 30
CHANGES = (
    device.KEEP,
    device.MAKE_DIR,
    device.MAKE_KEY,
    device.SET_MODE,
    device.WRITE,
    device.START,
    device.STOP,
)
# As they look in a quoted line: any piece without a quote will do.
MARKS = tuple(max(text.split("'"), key=len) for text in CHANGES)


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@dataclass
class Adb:
    """An adb server of the test's own, on a port of loopback, with its keys below `home`."""

    home: Path
    port: int = field(default_factory=free_port)
    server: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What makes every adb use this server."""
        return {"ANDROID_ADB_SERVER_PORT": str(self.port), "HOME": str(self.home)}

    def run(self, *words: str) -> str:
        """Run adb."""
        env = {**os.environ, **self.environment}
        done = subprocess.run(["adb", *words], env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        return done.stdout + done.stderr

    def connect(self, *phones: Phone) -> None:
        """Let the server see exactly these phones."""
        self.run("disconnect")
        for phone in phones:
            said = self.reach(phone)
            assert "connected to" in said, said
        wanted = {phone.serial for phone in phones}
        deadline = time.monotonic() + LIMIT_S
        while self.seen() != wanted:
            assert time.monotonic() < deadline, self.run("devices")
            time.sleep(0.05)

    def wait_for(self, phone: Phone, state: str) -> None:
        """Until `adb devices` shows the phone in this state."""
        deadline = time.monotonic() + LIMIT_S
        while f"{phone.serial}\t{state}" not in (said := self.run("devices")):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def reach(self, phone: Phone) -> str:
        """Connect to a phone whose adbd may be starting just now; returns what adb says in the end."""
        deadline = time.monotonic() + LIMIT_S
        while "refused" in (said := self.run("connect", phone.serial)):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        return said

    def seen(self) -> set[str]:
        """Serial numbers of the devices that can be used."""
        lines = self.run("devices").splitlines()
        return {line.split()[0] for line in lines if line.endswith("\tdevice")}

    def start(self) -> None:
        """Start the server, as a child of the test: one whose phone has gone is deaf to `adb kill-server` for long."""
        env = {**os.environ, **self.environment}
        argv = ["adb", "nodaemon", "server"]
        self.server = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + LIMIT_S
        while not self.listens():
            assert time.monotonic() < deadline and self.server.poll() is None, "the adb server does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server."""
        if self.server is not None:
            self.server.kill()
            self.server.wait(LIMIT_S)

    def listens(self) -> bool:
        """Whether the server is there; asking adb itself would start one."""
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0


def snapshot(phone: Phone, *, times: bool = False) -> dict[str, tuple[Any, ...]]:
    """Everything below /data by path: mode, owner, group and content; with `times` also when it was changed."""
    top = phone.root / "data"
    found = {}
    for at, folders, files in os.walk(top):
        for name in (".", *folders, *files) if Path(at) == top else (*folders, *files):
            path = Path(at) / name
            info = path.lstat()
            content: Any = ""
            if stat.S_ISREG(info.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            when = info.st_mtime_ns if times and stat.S_ISREG(info.st_mode) else 0
            found[str(path.relative_to(top))] = (oct(info.st_mode), info.st_uid, info.st_gid, content, when)
    return found


class Killed(BaseException):
    """The command was killed here: nobody catches this."""


class Mortal(Controller):
    """Runs real programs, keeps its inventory in memory, and dies right after the n-th call that changes something."""

    def __init__(self, changes: Sequence[str], die_after: int = -1) -> None:
        self.changes, self.die_after, self.done = changes, die_after, 0
        self.inventory: dict[str, Node] = {}

    def run(self, argv: Sequence[str], **words: Any) -> Any:
        """As the real one."""
        is_change = any(text in argv[-1] for text in self.changes) or argv[3:4] == ["forward"]
        if is_change and self.done == self.die_after:
            raise Killed
        answer = super().run(argv, **words)
        self.done += is_change
        return answer

    def nodes(self) -> Mapping[str, Node]:
        """What was added."""
        return self.inventory

    def add_node(self, node: Node, host_key: str) -> tuple[Node, Mapping[str, str]]:
        """Remember it."""
        table = {**node.options_of("android"), "known_hosts": host_key}
        self.inventory[node.name] = Node(node.name, node.address, "android", options={"android": table})
        return self.inventory[node.name], {}

    def remove_node(self, name: str) -> bool:
        """Forget it."""
        return self.inventory.pop(name, None) is not None


def undo(serial: str, controller: Mortal) -> None:
    """Undo in this process, to its end."""
    controller.die_after = -1
    cli.do_undo(controller, *cli.find_phone(controller, serial), yes=True)


def make_key(path: Path) -> Path:
    """A key without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "it's me", "-f", str(path)], check=True)
    return path


def ssh(
    known_hosts: Path, port: str, user: str, *words: str, host: str = "127.0.0.1"
) -> subprocess.CompletedProcess[str]:
    """The user's own ssh; without `host` through the way over USB."""
    options = [f"UserKnownHostsFile={known_hosts}", "HostKeyAlias=phone", "StrictHostKeyChecking=yes", "BatchMode=yes"]
    flags = [word for option in options for word in ("-o", option)]
    argv = ["ssh", "-F", "none", *flags, "-p", port, "-l", user, *words, host, "/system/bin/id -u"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def adbd_pid(phone: Phone) -> int:
    """Pid of the phone's adbd, as this machine counts."""
    for path in Path("/proc").glob("[0-9]*/root"):
        try:
            same = path.samefile(phone.root) and path.with_name("comm").read_text() == "adbd\n"
        except OSError:
            continue
        if same:
            return int(path.parent.name)
    raise AssertionError("no adbd runs on the phone")


@contextmanager
def offline(phone: Phone) -> Iterator[None]:
    """The phone's adbd ends, and nothing starts another as long as this lasts."""
    os.kill(phone.pid, signal.SIGSTOP)
    try:
        os.kill(adbd_pid(phone), signal.SIGKILL)
        yield
    finally:
        os.kill(phone.pid, signal.SIGCONT)


# In Debian's adbd, right before it reads ADB_EXTERNAL_STORAGE: `auth_required = false`, which no phone's adbd has.
NO_AUTH = re.compile(rb"(\x48\x8d\x05....\xc6\x00)\x00(?=\x48\x8d\x3d....\xe8....\x48\x85\xc0)", re.S)


def authenticate(phone: Phone) -> None:
    """Have the phone's adbd ask for keys, as a phone's does: the one instruction that turns this off, turned round."""
    program = phone.root / "usr/lib/android-sdk/platform-tools/adbd"
    changed, count = NO_AUTH.subn(lambda found: found[1] + b"\1", program.read_bytes())
    if count != 1:
        pytest.skip("this adbd is another than that of Debian 13 on x86_64")
    beside = program.with_name("adbd.new")
    beside.write_bytes(changed)
    beside.chmod(0o755)
    beside.replace(program)
    os.kill(adbd_pid(phone), signal.SIGKILL)
