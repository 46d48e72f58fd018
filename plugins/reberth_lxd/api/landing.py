"""What the target's daemon will decide: it is asked beforehand, and nothing of it is guessed from the source.

Read in the source of LXD 4.0 to 6.5 and of Incus 6.0 and 7.3: the daemon looks at limits and restrictions of the
project, the profiles, the pool, each key of the configuration and the architecture, then at whether an operation of its
own holds the name, and only then at the kinds of the devices, before it makes a record. So the request of the move with
one device of a kind that there is not goes through all of that, and leaves nothing (LXD 5.0.2, 2026-12-01).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from reberth_hooks import Check, CommandError, HelperError, Level, Shell
from reberth_lxd.api import keys, request
from reberth_lxd.api.client import Daemon, over

TRIAL = {"reberth-asks": {"type": "reberth"}}
TAKEN = "nvalid device type"  # the answer to it, when all else is well
NOWHERE = "https://127.0.0.1:1/1.0/operations/none"
# Operations that may go on beside a move: somebody's shell in the container.
HARMLESS = ("executing command", "showing console")
TRIAL_S = 20.0


class Asks(Protocol):
    """What of a daemon these checks need."""

    def get(self, *path: str) -> dict[str, Any] | None:
        """Return what a GET answers, None where there is nothing."""


def decided(
    daemons: tuple[Daemon, Daemon], shell: Shell, instance: Mapping[str, Any], pool: str, found: Sequence[Check]
) -> Iterator[Check]:
    """Yield what both daemons will look at when the container that keeps its name is moved; `found` is known already.

    `pool` is the one that was asked for. The target is asked by a trial only where nothing else speaks against it.
    """
    source, target = daemons
    name, node = instance["name"], target.node.name
    there = target.get("instances", name)
    free = name_free(name, there, open_runs(shell, name), at_it(target, name), node)
    more = [*busy(source, name), free, *profiles(instance, source, target, node)]
    yield from more
    if not any(check.level is Level.FAIL for check in (*found, *more)):
        yield takes(target, in_pool(instance, pool))


def open_runs(shell: Shell, name: str) -> list[str]:
    """Ids of our own runs that are open on a node for the container of this name; none where there is no helper."""
    try:
        return [str(run["id"]) for run in shell.call("runs") if run.get("workload") == f"lxd/{name}"]
    except HelperError:
        return []


def at_it(daemon: Daemon, name: str) -> str:
    """Return what a daemon is doing with an instance of this name of the default project, in its own words.

    Empty: nothing.
    """
    for one in daemon.operations():
        words = str(one.get("description") or "an operation")
        named = [str(url) for urls in (one.get("resources") or {}).values() for url in urls or ()]
        if not over(one) and words.lower() not in HARMLESS and any(_is(url, name) for url in named):
            return words
    return ""


def _is(url: str, name: str) -> bool:
    path, _, query = url.partition("?")
    elsewhere = "project=" in query and "project=default" not in query
    return path.rpartition("/")[2] == name and not elsewhere


def busy(daemon: Daemon, name: str) -> Iterator[Check]:
    """A daemon that does something with the container would answer "busy" in the middle of the move."""
    words, node = at_it(daemon, name), daemon.node.name
    text = f"the daemon is at it: {words}" if words else "no operation of the daemon is at it"
    remedy = "wait until that has ended: lxc operation list" if words else ""
    yield Check("lxd-busy", Level.FAIL if words else Level.OK, text, remedy, node)


def name_free(name: str, there: Mapping[str, Any] | None, runs: Sequence[str], doing: str, node: str) -> Check:
    """The name must be free; what a run of ours or the daemon is making there is not to be deleted."""
    if runs:
        text = f"run {runs[0]} is open on the target for a container of the name {name}"
        return Check("name-free", Level.FAIL, text, f"reberth status; then: reberth recover {runs[0]}", node)
    if doing:
        text = f"the daemon is at an instance of the name {name}: {doing}"
        return Check("name-free", Level.FAIL, text, "wait until that has ended: lxc operation list", node)
    text = f"the name {name} on the target"
    if there is None:
        return Check("name-free", Level.OK, text, "", node)
    status = str(there.get("status", "")).lower()
    return Check("name-free", Level.FAIL, text, f"lxc delete or lxc rename the {status} one there", node)


def profiles(instance: Mapping[str, Any], source: Asks, target: Asks, node: str) -> Iterator[Check]:
    """Profiles of the same name with other content: the copy has the target's, from its next start on."""
    for name in instance["profiles"]:
        here, there = source.get("profiles", name), target.get("profiles", name)
        if here is None or there is None:
            continue
        other = [
            f"{word} {', '.join(found)}"
            for word, kind in (("keys", "config"), ("devices", "devices"))
            if (found := _differing(here.get(kind) or {}, there.get(kind) or {}))
        ]
        if other:
            text = f"profile {name} is another one on the target: {'; '.join(other)}"
            remedy = f"compare: lxc profile show {name}, on both nodes; lxc profile edit {name}"
            yield Check("profile-content", Level.WARN, text, remedy, node)


def _differing(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*here, *there} if here.get(key) != there.get(key))


def takes(daemon: Daemon, instance: Mapping[str, Any]) -> Check:
    """Ask the target's daemon whether it would make this instance, by a request that it must refuse at last."""
    node, want = daemon.node.name, {**keys.saved(instance["config"]), keys.AUTOSTART: "false"}
    words = request.for_target({**instance, "devices": {**instance["devices"], **TRIAL}}, NOWHERE, "", {}, want)
    try:
        begun = make(daemon, words)
    except CommandError as error:
        if TAKEN in (said := error.message):
            return Check("lxd-takes", Level.OK, "the target's daemon would take it", "", node)
        return _refused(said.partition(" says: ")[2] or said, node)
    deadline = time.monotonic() + TRIAL_S  # a daemon that takes any device: it ends with the address that is none
    while not over(daemon.operation(begun["url"])) and time.monotonic() < deadline:
        time.sleep(0.1)
    return Check("lxd-takes", Level.OK, "the target's daemon took the trial", "", node)


def make(daemon: Daemon, words: dict[str, Any]) -> dict[str, Any]:
    """Ask for an instance on this very daemon; a cluster would choose the member by itself."""
    if daemon.environment.get("server_clustered"):
        return daemon.post("instances", json=words, params={"target": str(daemon.environment.get("server_name"))})
    return daemon.post("instances", json=words)


def _refused(said: str, node: str) -> Check:
    if "busy running" in said.lower():
        text = f"the target's daemon is busy with the name: {said}"
        return Check("lxd-takes", Level.FAIL, text, "if that lasts for a minute, start that daemon again", node)
    return Check("lxd-takes", Level.FAIL, f"the target's daemon would not take it: {said}", "change that there", node)


def pool_there(instance: Mapping[str, Any], target: Asks, wanted: str) -> str:
    """Return the pool that the daemon puts the copy into: as asked for, the instance's own, that of its profiles."""
    if wanted:
        return wanted
    own = next((d.get("pool") for d in instance["devices"].values() if d.get("path") == "/"), None)
    if own:
        return str(own)
    found = ""
    for name in instance["profiles"]:
        devices = (target.get("profiles", name) or {}).get("devices") or {}
        found = next((str(d["pool"]) for d in devices.values() if d.get("path") == "/" and d.get("pool")), found)
    return found or pool_of(instance)


def pool_of(instance: Mapping[str, Any]) -> str:
    """Return the pool of its root filesystem, empty for none."""
    root: Mapping[str, Any] = next((d for d in instance["expanded_devices"].values() if d.get("path") == "/"), {})
    return str(root.get("pool", ""))


def in_pool(instance: Mapping[str, Any], pool: str) -> dict[str, Any]:
    """Return the instance with a root device of its own in this pool, as the client makes it for `--storage`."""
    if not pool:
        return dict(instance)
    found = ((name, d) for name, d in instance["expanded_devices"].items() if d.get("path") == "/")
    name, root = next(found, ("root", {"type": "disk", "path": "/"}))
    return {**instance, "devices": {**instance["devices"], name: {**root, "pool": pool}}}
