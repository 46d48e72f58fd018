"""The preflight's verdicts on daemons and container: what is known to fail, before it does, with what helps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reberth_hooks import Check, Level, Options, Shell
from reberth_lxd.api import landing
from reberth_lxd.api.keys import is_on
from reberth_lxd.api.landing import Asks

REMOVED_IN = (6, 6)
FIXED_LIBLXC = (7, 1)  # in no released version that this project has read (7.0.0 and older lack it)
CONSOLE = re.compile(r"^\s*lxc\.console\.path\s*=\s*none\s*$", re.MULTILINE)
# Between two pools of such a kind the daemon sends one snapshot, not files (ceph: read in the source of LXD).
OPTIMIZED = ("zfs", "btrfs", "ceph")
KNOWN_NICS = ("bridged", "macvlan", "p2p", "physical")


def version_of(text: str) -> tuple[int, ...]:
    """Return the first dotted number in a text."""
    found = re.search(r"(\d+(?:\.\d+)*)", text)
    return tuple(int(n) for n in found[1].split(".")) if found else ()


def version_gate(server: str, version: str) -> str:
    """Return why this daemon cannot move a running container, empty when it can; no extension of its API tells that."""
    if server == "lxd" and version_of(version) >= REMOVED_IN:
        return f"LXD {version} cannot move running containers: it was removed in 6.6"
    return ""


def not_live(here: Mapping[str, Any], there: Mapping[str, Any], source: str, target: str) -> Iterator[Check]:
    """Yield a failure for each daemon that cannot move a running container, whose remedy names the mode that is
    left.
    """
    for facts, node in ((here, source), (there, target)):
        if facts.get("not_live"):
            reason, remedy = facts["not_live"]
            yield Check("lxd-live", Level.FAIL, reason, remedy, node)


def daemons(
    here: Mapping[str, Any], there: Mapping[str, Any], source: str, target: str, precopy: bool
) -> Iterator[Check]:
    """Yield what must hold of the two daemons together."""
    same = here["server"] == there["server"]
    text = f"{here['server']} {here['version']} on {source}, {there['server']} {there['version']} on {target}"
    yield _say("lxd-kind", same, text, "", "move between two daemons of one kind")
    good = bool(there["apparmor"] or there["criu_wrapper"])
    text = "liblxc always names an AppArmor profile, and criu refuses it where the kernel has no AppArmor"
    remedy = "mount securityfs there, and remove /run/criu.kdat; without AppArmor see docs/how-to/lxd.md"
    yield _say("apparmor", good, text, target, remedy)
    if precopy:
        text = "pre-copy needs a kernel that tracks changed memory (soft-dirty)"
        yield _say("soft-dirty", bool(here["soft_dirty"]), text, source, "--mode stop-and-copy")


def shape(
    instance: Mapping[str, Any], here: Mapping[str, Any], there: Mapping[str, Any], comm: str, restored: bool, node: str
) -> Iterator[Check]:
    """Yield what of the container itself is known to fail."""
    config, name = instance["expanded_config"], instance["name"]
    yield _say("console", bool(CONSOLE.search(config.get("raw.lxc", ""))), "a console cannot be restored", node,
               f'lxc config set {name} raw.lxc "lxc.console.path = none", and restart it')  # fmt: skip
    yield _say("init", comm != "systemd", f"its first process is {ascii(comm)[1:-1]}", node,
               "criu cannot restore systemd as the first process of an LXD container")  # fmt: skip
    nested = config.get("security.nesting", "false") == "true"
    yield _say("nesting", not nested, "containers in the container" if nested else "no nesting", node,
               f"lxc config set {name} security.nesting false, and restart it")  # fmt: skip
    privileged = config.get("security.privileged", "false") == "true"
    mapped = not privileged and not (here["idmapped_off"] and there["idmapped_off"])
    text = "an unprivileged container with idmapped mounts: the restore opens its files without the map"
    yield _say("id-map", not mapped, text if mapped else "its users are on disk as they are", node,
               "LXD_IDMAPPED_MOUNTS_DISABLE=1 for both daemons, or security.privileged=true")  # fmt: skip
    again = restored and here["unified"] and version_of(str(here["liblxc"])) < FIXED_LIBLXC
    text = f"it was restored before, and liblxc {here['liblxc']} cannot dump such a container again on cgroup v2"
    yield _say("dumped-before", not again, text if again else "it can be dumped", node,
               f"restart it once: lxc restart {name}")  # fmt: skip


def renamed(name: str, target_name: str, node: str) -> Iterator[Check]:
    """The name must stay; whether it is free is the target's daemon's to say (`landing`)."""
    yield _say("rename", name == target_name, "a running container keeps its name", "", f"move it to {node}:{name}")


def kept(instance: Mapping[str, Any], options: Options, server: str, node: str, held: bool = True) -> Iterator[Check]:
    """Yield what the source's daemon would do, or not do, with the old one; `held`: no success of its own ends that."""
    own, name, gone = options.backend_args, instance["name"], bool(instance.get("ephemeral"))
    text = "it is ephemeral: its daemon deletes it when it ends there" if gone else "it stays when it ends"
    good = not gone or (held and not own.get("keep_source"))
    remedy = "leave out --keep-source; or" if held else "reach the nodes by ssh; or"
    yield _say("ephemeral", good, text, node, f"{remedy}: lxc config edit {name}, and set ephemeral: false")
    if own.get("snapshot_first") and server == "incus":
        stateful = is_on(instance["expanded_config"].get("migration.stateful"))
        text = "Incus takes a stateful snapshot only where migration.stateful is true"
        yield _say("stateful", stateful, text, node, f"lxc config set {name} migration.stateful true")


def storage(instance: Mapping[str, Any], source: Asks, target: Asks, node: str, wanted: str = "") -> Iterator[Check]:
    """The pool must be there, and files must travel as files: a snapshot lacks what was written after it.

    `wanted` is the pool that was asked for.
    """
    pool, pool_there = landing.pool_of(instance), landing.pool_there(instance, target, wanted)
    here, there = source.get("storage-pools", pool), target.get("storage-pools", pool_there)
    text = f"storage pool {pool_there}" + (f", on the source {pool}" if pool != pool_there else "")
    yield _say("pool", there is not None, text, node,
               f"--lxd-pool NAME (lxc storage list there), or lxc storage create {pool_there} DRIVER")  # fmt: skip
    drivers = str((here or {}).get("driver")), str((there or {}).get("driver"))
    lossy = drivers[0] == drivers[1] and drivers[0] in OPTIMIZED
    text = f"storage: {drivers[0]} to {drivers[1]}"
    text += "; the daemon sends a snapshot, and what is written after it would be lost" if lossy else ""
    yield _say("storage", not lossy, text, node, "a pool of another kind on the target, as dir: then files are sent")


def profiles_and_devices(instance: Mapping[str, Any], target: Asks, shell: Shell, node: str) -> Iterator[Check]:
    """Profiles, networks and host devices that the container takes for granted."""
    lacking = [p for p in instance["profiles"] if target.get("profiles", p) is None]
    text = f"profiles: {', '.join(lacking or instance['profiles']) or 'none'}"
    yield _say("profiles", not lacking, text, node, "create them there: lxc profile copy")
    for name, device in sorted(instance["expanded_devices"].items()):
        yield from _device(name, device, target, shell, node)


def _device(name: str, device: Mapping[str, str], target: Asks, shell: Shell, node: str) -> Iterator[Check]:
    kind = device.get("type")
    if kind == "nic":
        parent = device.get("parent") or device.get("network") or ""
        there = bool(parent) and shell.call("stats", paths=[f"/sys/class/net/{parent}"])[0] is not None
        nic = device.get("nictype", "bridged")
        text = f"network device {name}: {nic} on {parent}"
        yield _say("nic", there and nic in KNOWN_NICS, text, node, f"make {parent} there, of the same kind")
    elif kind == "disk" and device.get("path") != "/":
        yield Check("device", Level.FAIL, f"disk device {name}: it does not travel", "detach it first", node)
    elif kind not in ("disk", "none", "proxy"):
        yield Check("device", Level.FAIL, f"device {name} of kind {kind} cannot be dumped", "detach it first", node)


def _say(id: str, good: bool, reason: str, node: str, remedy: str) -> Check:
    return Check(id, Level.OK, reason, "", node) if good else Check(id, Level.FAIL, reason, remedy, node)
