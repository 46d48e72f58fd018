"""Phones of the lab for the tests: an adb server of their own, snapshots of /data, and a controller that can die."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reberth.controller import Controller
from reberth_hooks import Node
from reberth_lab.android import Phone

LIMIT_S = 30


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@dataclass
class Adb:
    """An adb server of the test's own, on a port of loopback, with its keys below `home`."""

    home: Path
    port: int = field(default_factory=free_port)

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
            said = self.run("connect", phone.serial)
            assert "connected to" in said, said
        wanted = {phone.serial for phone in phones}
        deadline = time.monotonic() + LIMIT_S
        while self.seen() != wanted:
            assert time.monotonic() < deadline, self.run("devices")
            time.sleep(0.05)

    def seen(self) -> set[str]:
        """Serial numbers of the devices that can be used."""
        lines = self.run("devices").splitlines()
        return {line.split()[0] for line in lines if line.endswith("\tdevice")}

    def stop(self) -> None:
        """End the server, also one that is busy with a phone that has just gone."""
        deadline = time.monotonic() + LIMIT_S
        while self.listens():
            assert time.monotonic() < deadline, "the adb server does not end"
            self.run("kill-server")
            time.sleep(0.05)

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
