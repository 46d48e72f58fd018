"""The real `adb` program: which devices there are, and fixed texts run on one of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from reberth_android.quoting import DONE, device_line
from reberth_hooks import (
    CommandError,
    ConnectionLostError,
    Controller,
    RefusedError,
    UnreachableError,
    UsageError,
)

LEAST = (1, 0, 36)  # the first that passes exit codes on (shell protocol 2, platform tools 24)
ROOT_WAIT_S = 20.0
INSTALL = "Debian, Ubuntu: apt-get install adb; Fedora: dnf install android-tools"
STATES = {
    "unauthorized": "it has not allowed this machine: unlock it and confirm the question on its screen",
    "offline": "it does not answer: unplug it and plug it in again, or `adb reconnect offline`",
    "no permissions": "this user may not use it: see the udev rules of your system, or run as root",
    "recovery": "it is in its recovery system: let it start normally",
    "sideload": "it is in its recovery system: let it start normally",
    "bootloader": "it is in its boot loader: let it start normally",
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of `adb devices`."""

    serial: str
    state: str


def check_program(controller: Controller) -> None:
    """Raises RefusedError when adb is missing here or too old."""
    try:
        said = controller.run(["adb", "version"]).out
    except CommandError as error:
        raise RefusedError(
            "adb cannot be used on this machine", hint=INSTALL, tail=error.tail or error.message
        ) from error
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", said)
    version = tuple(int(n) for n in found.groups()) if found else ()
    if version < LEAST:
        text = f"adb {'.'.join(map(str, version)) or 'of an unknown version'} is too old"
        raise RefusedError(text, hint=f"at least {'.'.join(map(str, LEAST))} is needed; {INSTALL}", tail=said)


def devices(controller: Controller) -> list[Listed]:
    """Return every device that adb sees, whatever its state."""
    try:
        said = controller.run(["adb", "devices"], timeout_s=60.0).out
    except CommandError as error:
        raise RefusedError("adb does not work on this machine", hint="adb kill-server", tail=error.tail) from error
    lines = said.partition("List of devices attached")[2].splitlines()
    rows = [re.fullmatch(r"(\S+)\s+(\S.*)", line.strip()) for line in lines]
    return [Listed(row[1], row[2].split(";")[0].strip()) for row in rows if row]


def find(controller: Controller, serial: str = "") -> Adb:
    """Return the one device that is meant; without `serial` the only one.

    Raises RefusedError (adb), UnreachableError (none, or not usable) and UsageError (several).
    """
    check_program(controller)
    found = devices(controller)
    wanted = [one for one in found if serial in ("", one.serial)]
    if not found:
        raise UnreachableError("adb sees no device", hint="plug it in and allow USB debugging (Developer options)")
    if not wanted:
        raise UnreachableError(f"adb sees no device {serial!a}", hint=f"it sees {_list(found)}")
    if len(wanted) > 1:
        raise UsageError(f"adb sees {len(wanted)} devices", hint=f"name one of them: {_list(wanted)}")
    one = wanted[0]
    if one.state != "device":
        state = next((word for word in STATES if one.state.startswith(word)), one.state)
        raise UnreachableError(f"device {one.serial!a} is {state}", hint=STATES.get(state, "see: adb devices"))
    return Adb(controller, one.serial)


def _list(found: Sequence[Listed]) -> str:
    return ", ".join(ascii(one.serial)[1:-1] for one in found)


class Adb:
    """One device. Its serial number is an argument of adb's, never part of a line."""

    def __init__(self, controller: Controller, serial: str) -> None:
        self.controller, self.serial = controller, serial

    def words(self, *words: str) -> list[str]:
        """Return the argument list of an adb command for this device."""
        return ["adb", "-s", self.serial, *words]

    def run(self, text: str, *words: str, stdin: str = "", timeout_s: float = 60.0) -> str:
        """Run a fixed text of ours on the device; returns its output.

        Raises CommandError (the text failed there) and ConnectionLostError (the device is gone).
        """
        flag = [] if stdin else ["-n"]
        argv = self.words("shell", *flag, device_line(text, words))
        try:
            done = self.controller.run(argv, check=False, stdin=stdin, timeout_s=timeout_s)
        except CommandError as error:
            raise ConnectionLostError(f"device {self.serial!a} does not answer", tail=error.message) from error
        if done.code == 0 and done.out.endswith(DONE):
            return done.out.removesuffix(DONE)
        said = (done.err or done.out).strip()
        if done.code == 0 or said.startswith(("error:", "adb:", "- waiting")) or not said:
            raise ConnectionLostError(f"device {self.serial!a} was lost", hint="is it plugged in?", tail=said)
        raise CommandError(f"a command on device {self.serial!a} ended with {done.code}", tail=said)

    def is_root(self) -> bool:
        """Tell whether adb's shell is root there."""
        return self.run("id -u").strip() == "0"

    def become_root(self) -> bool:
        """Make adb's shell root; returns whether it was not before. RefusedError where the device does not let it."""
        if self.is_root():
            return False
        done = self.controller.run(self.words("root"), check=False, timeout_s=ROOT_WAIT_S)
        self.controller.run(self.words("wait-for-device"), check=False, timeout_s=ROOT_WAIT_S)
        if not self.is_root():
            hint = "Settings, Developer options, Rooted debugging; user builds have no such switch"
            said = (done.err or done.out).strip()
            raise RefusedError(f"device {self.serial!a} does not let adb become root", hint=hint, tail=said)
        return True

    def leave_root(self) -> None:
        """Take adb's shell back to the user `shell`."""
        self.controller.run(self.words("unroot"), check=False, timeout_s=ROOT_WAIT_S)

    def forward(self, device_port: int, local_port: int = 0) -> int:
        """Open a port on this machine's loopback that leads to one of the device; answers it. Idempotent."""
        for serial, local, remote in self._forwards():
            if (serial, remote) == (self.serial, f"tcp:{device_port}") and local_port in (0, _number(local)):
                return _number(local)
        argv = self.words("forward", f"tcp:{local_port}", f"tcp:{device_port}")
        said = self.controller.run(argv).out.strip()
        return int(said) if said.isdecimal() else local_port

    def unforward(self, local_port: int) -> None:
        """Close it again; nothing happens when it is not open."""
        if any(s == self.serial and _number(local) == local_port for s, local, _ in self._forwards()):
            self.controller.run(self.words("forward", "--remove", f"tcp:{local_port}"), check=False)

    def _forwards(self) -> list[tuple[str, str, str]]:
        lines = self.controller.run(["adb", "forward", "--list"], check=False).out.splitlines()
        return [(w[0], w[1], w[2]) for w in map(str.split, lines) if len(w) == 3]


def _number(word: str) -> int:
    digits = word.removeprefix("tcp:")
    return int(digits) if digits.isdecimal() else -1
