"""Phones of a lab: two devices with a real adbd, beside the nodes and on their bridge.

`phone1` has an adbd that runs as root, as a LineageOS phone after `adb root`; that of `phone2` runs as `shell` and
refuses to become root, as a user build does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reberth_lab import android_root, boot, cgroups, links
from reberth_lab.locks import locked
from reberth_lab.node_namespace import NamespaceNode
from reberth_lab.proc import LabError, tool_environment
from reberth_lab.site import Site

if TYPE_CHECKING:
    from reberth_lab.lab import Lab

ADB_PORT = 5555
FIRST_NUMBER = 91  # beyond the nodes that a lab really has; an interface name has room for two digits
SIZE_BYTES = 256 << 20  # small enough to be filled by a test
PHONES = {"phone1": 0, "phone2": android_root.SHELL_UID}  # name -> user id of its adbd
UP_WAIT_S = 1800


class Phone(NamespaceNode):
    """One device; cheap to make, and it finds its processes anew each time."""

    def __init__(self, site: Site, name: str) -> None:
        if name not in PHONES:
            raise LabError(f"{name!r} is no phone of the lab", f"phones are called {' and '.join(PHONES)}")
        self.site, self.name = site, name
        self.number = FIRST_NUMBER + list(PHONES).index(name)
        self._init: tuple[int, int] | None = None

    def find_pid(self) -> int | None:
        """Pid of the init, looked for anew each time: a phone that was crashed comes back as another one."""
        return cgroups.init_pid(self.cgroup)

    @property
    def serial(self) -> str:
        """Return how adb names the device after `adb connect`."""
        return f"{self.address}:{ADB_PORT}"

    def shell(self, text: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a line of the device's shell as root inside, with `words` as its arguments."""
        argv = ["nsenter", "-t", str(self.pid), "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w", "--"]
        argv += ["/system/bin/sh", "-c", text, "sh", *words]
        env = {**tool_environment(), "PATH": f"{tool_environment()['PATH']}:/system/bin"}
        return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=60, env=env, input="")

    def unplug(self) -> None:
        """Pulls the cable: adb notices by itself when it next uses the device."""
        links.set_up(self.site, self.number, False)

    def plug(self) -> None:
        """Puts the cable in again."""
        links.set_up(self.site, self.number, True)


def phones(site: Site) -> list[Phone]:
    """Return the phones that run."""
    return [phone for phone in (Phone(site, name) for name in PHONES) if phone.alive]


def up(lab: Lab, *, install: bool = False, names: Sequence[str] = tuple(PHONES)) -> list[Phone]:
    """Makes sure that the phones run beside the nodes of `lab`, which must be up."""
    root = android_root.ensure(lab.site.cache, say=lambda text: print(f"lab: {text}", flush=True), install=install)
    with locked(lab.site.lock_path, wait_s=UP_WAIT_S):
        every = [Phone(lab.site, name) for name in names]
        for phone in every:
            if not phone.alive:
                _start(phone, root)
        for phone in every:
            _wait_for_adbd(phone)
    return every


def _start(phone: Phone, root: Path) -> None:
    uid = PHONES[phone.name]
    boot.start(phone, root, SIZE_BYTES, {"command": ["/system/bin/sh", "/init.sh"], "uid": uid})
    links.ensure_veth(phone.site, phone.number, phone.pid)
    boot.release(phone)


def crash(phone: Phone) -> None:
    """Ends a phone as pulling its battery does; what was in /data is gone."""
    cgroups.remove(phone.cgroup)


def _wait_for_adbd(phone: Phone) -> None:
    deadline = time.monotonic() + boot.START_LIMIT_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection((phone.address, ADB_PORT), timeout=2).close()
            return
        except OSError:
            time.sleep(0.05)
    log = (phone.root / "var/log/lab-init.log").read_text(errors="replace")[-400:] if phone.alive else "it has ended"
    raise LabError(f"adbd of {phone.name} at {phone.serial} does not answer: {log}", "reberth lab down")


def adb_environment(port: int, home: Path) -> dict[str, str]:
    """Return what gives a test an adb server of its own: `port` on loopback, keys below `home`."""
    return {**os.environ, "ANDROID_ADB_SERVER_PORT": str(port), "HOME": str(home)}
