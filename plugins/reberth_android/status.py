"""`reberth android status`: what runs, where it listens, and what is open further than meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from reberth_android import device, files
from reberth_android.adb import Adb
from reberth_android.device import State
from reberth_hooks import Check, Level

LISTENING = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || :"
ADB_TCP = "getprop service.adb.tcp.port; getprop persist.adb.tcp.port"
# sshd_config(5): what holds where the file says nothing.
DEFAULTS = {
    "passwordauthentication": "yes",
    "challengeresponseauthentication": "yes",
    "permitrootlogin": "prohibit-password",
    "strictmodes": "yes",
    "port": "22",
}
ALIASES = {"kbdinteractiveauthentication": "challengeresponseauthentication"}


@dataclass(frozen=True, slots=True)
class Status:
    """What `status` tells; `boot` is yes, no or unknown, `pid` 0 when sshd does not run."""

    pid: int
    listening: tuple[str, ...]
    keys: int
    boot: str
    set_up: bool
    checks: tuple[Check, ...]


def status(adb: Adb) -> Status:
    """Look at a device; needs no root and changes nothing."""
    state = device.look(adb)
    config = settings(state.texts[files.SSHD_CONFIG])
    ports = {int(word) for word in [config["port"], *re.findall(r":(\d+)$", config.get("listenaddress", ""))] if word}
    found = listening(adb.run(LISTENING), ports)
    keys = key_lines(state.texts[files.AUTHORIZED_KEYS])
    tcp = [word for word in adb.run(ADB_TCP).split() if word.isdecimal() and int(word) > 0]
    checks = (
        *mistakes(state, config, found),
        *_adb_checks(adb.is_root(), tcp),
    )
    return Status(device.running_pid(adb), found, len(keys), device.starts_at_boot(adb), state.kept, checks)


def settings(config: str) -> dict[str, str]:
    """Keyword to value, as sshd reads it: the first one counts, keywords have no case, defaults where it is silent.

    What stands in a `Match` block is not judged.
    """
    found: dict[str, str] = {}
    for line in config.splitlines():
        words = re.split(r"[\s=]+", line.split("#", 1)[0].strip(), maxsplit=1)
        if words[0].lower() == "match":
            break
        if len(words) == 2:
            key = words[0].lower()
            found.setdefault(ALIASES.get(key, key), words[1].strip().strip('"'))
    return {**DEFAULTS, **found}


def key_lines(authorized_keys: str) -> list[str]:
    """Return the lines that let somebody in."""
    return [line for line in authorized_keys.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def listening(proc_net: str, ports: set[int]) -> tuple[str, ...]:
    """Addresses and ports out of /proc/net/tcp and tcp6 that listen (state 0A) on one of these ports."""
    found = []
    for line in proc_net.splitlines():
        words = line.split()
        if len(words) > 3 and words[3] == "0A" and ":" in words[1]:
            host, _, port = words[1].rpartition(":")
            if int(port, 16) in ports:
                found.append(f"{_address(host)}:{int(port, 16)}")
    return tuple(sorted(set(found)))


def _address(hexadecimal: str) -> str:
    """Return an address as the kernel prints it.

    32-bit words of the machine's byte order, little-endian on every phone.
    """
    import ipaddress

    words = [bytes.fromhex(hexadecimal[at : at + 8])[::-1] for at in range(0, len(hexadecimal), 8)]
    address = ipaddress.ip_address(b"".join(words))
    return f"[{address}]" if address.version == 6 else str(address)


def mistakes(state: State, config: dict[str, str], found: tuple[str, ...]) -> Iterator[Check]:
    """Yield what is wrong with the files and the listener; one check each."""
    root = config["permitrootlogin"].lower()
    yield _check("root-login", root == "no", f"PermitRootLogin {root}", "PermitRootLogin no")
    said = [config["passwordauthentication"].lower(), config["challengeresponseauthentication"].lower()]
    good = said == ["no", "no"]
    text = "login by password is off" if good else "login by password is on"
    yield _check("password-login", good, text, "PasswordAuthentication no, ChallengeResponseAuthentication no")
    strict = config["strictmodes"].lower()
    yield _check("strict-modes", strict == "yes", f"StrictModes {strict}", "remove that line")
    yield _private("authorized-keys", state, [files.AUTHORIZED_KEYS])
    hosts = [path for path in files.HOST_KEYS if state.entries[path].there]
    elsewhere = config.get("hostkey", files.SSH_DIR)
    yield _private("host-keys", state, hosts if elsewhere.startswith(files.SSH_DIR) else [])
    yield _listen(config, found)
    free = [line for line in key_lines(state.texts[files.AUTHORIZED_KEYS]) if not _restricted(line)]
    text = f"{len(free)} keys may forward ports and agents" if free else "every key is restricted"
    yield _check(
        "unrestricted-key", not free, text, f"write `restrict,pty ` in front of them in {files.AUTHORIZED_KEYS}"
    )
    others = [p for p in (files.SSH_DIR, files.SSHD_CONFIG, files.START_SCRIPT) if _writable(state, p)]
    text = f"others may write {', '.join(others)}" if others else "nobody else may write the configuration"
    yield _check("writable", not others, text, "chmod go-w, and owner shell or root")


def _listen(config: dict[str, str], found: tuple[str, ...]) -> Check:
    wide = [word for word in found if word.startswith(("0.0.0.0:", "[::]:"))]
    where = re.sub(r":\d+$", "", config.get("listenaddress", "")).strip("[]")
    everywhere = bool(wide) or where in ("", "0.0.0.0", "::", "*")
    text = f"sshd listens on {', '.join(wide) or 'every address'}" if everywhere else f"sshd listens on {where} alone"
    return _check("listen", not everywhere, text, "setup with --address, or without it for USB alone")


def _restricted(line: str) -> bool:
    """Tell whether a key's options take forwarding away; a forced command alone counts as the old way to say it."""
    options = line.split()[0]
    return options.startswith(("restrict", "command=")) or ",restrict" in options or ",command=" in options


def _private(id: str, state: State, paths: list[str]) -> Check:
    bad = [
        f"{path} is {state.entries[path].kind}"
        if not state.entries[path].there
        else f"{path} has mode {state.entries[path].mode}, owner {state.entries[path].owner}"
        for path in paths
        if not (state.entries[path].is_as("600") or state.entries[path].is_as("600", "root"))
    ]
    bad += [] if paths else [f"sshd has no host key in {files.SSH_DIR}"]
    text = "; ".join(bad) or f"{', '.join(paths)}: mode 600, owner shell"
    return _check(id, not bad, text, "reberth android setup puts modes and owners right")


def _writable(state: State, path: str) -> bool:
    entry = state.entries[path]
    return entry.there and (bool(int(entry.mode, 8) & 0o022) or entry.owner not in ("shell", "root"))


def _adb_checks(is_root: bool, tcp: list[str]) -> Iterator[Check]:
    ways = (["adb's shell is root"] if is_root else []) + ([f"adb listens on TCP port {tcp[0]}"] if tcp else [])
    text = " and ".join(ways) or "adb's shell is not root, and adb is not on the network"
    yield _check("adb", not ways, text, "adb unroot; adb usb; then switch USB debugging off (Developer options)")


def _check(id: str, good: bool, reason: str, remedy: str) -> Check:
    return Check(id, Level.OK, reason) if good else Check(id, Level.WARN, reason, remedy)
