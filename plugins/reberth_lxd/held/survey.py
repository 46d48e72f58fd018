"""What can be said of a daemon and of one of its containers before anything is touched."""

from __future__ import annotations

import posixpath
from typing import Any

from reberth_hooks import (
    Found,
    HelperError,
    Node,
    Options,
    ReberthError,
    Shell,
    Survey,
    Workload,
    hookimpl,
)
from reberth_hooks.criu.preflight import has_feature, space_checks
from reberth_lxd.api import keys, kinds, landing, rendezvous
from reberth_lxd.api.client import Daemon, socket_of
from reberth_lxd.api.wanted import other_pool, refuse_one_daemon, running, told
from reberth_lxd.held import checks
from reberth_lxd.https import connect, survey

DAEMON_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
APPARMOR = "/sys/kernel/security/apparmor"
NEAR_LIVE = "--mode near-live stops it and starts it afresh on the target: its memory is lost, its files are not"
NEWER = f"use Incus, or LXD before 6.6, on both nodes; or {NEAR_LIVE}"
CGROUP_V1_FREEZER = "/sys/fs/cgroup/freezer"


@hookimpl
def reberth_probe(node: Node, shell: Shell) -> dict[str, object]:
    """The daemon, its version, and the criu that it would start; `usable` with the reason when not."""
    try:
        socket = socket_of(node, shell)
        if not socket:
            return {"usable": False, "reason": "neither LXD nor Incus is installed", "remedy": "install one of them"}
        daemon = Daemon(node, shell, socket)
    except ReberthError as error:
        return {"usable": False, "reason": error.message, "remedy": error.hint}
    said, extensions = daemon.environment, daemon.extensions
    kind = kinds.kind_of(extensions)
    if not kind or (lack := kinds.lacking(extensions)):
        reason = f"{said.get('server')} {said.get('server_version')}: " + (lack if kind else "neither LXD nor Incus")
        return {"usable": False, "reason": reason, "remedy": "use Incus, or LXD from 4.0 to 6.5", "socket": socket}
    facts: dict[str, object] = {
        "socket": socket,
        "server": kind,
        "version": said.get("server_version"),
        "liblxc": said.get("driver_version"),
        "addresses": said.get("addresses") or [],
        "fingerprint": said.get("certificate_fingerprint"),
    }
    gate = checks.version_gate(kind, str(said.get("server_version")))
    if gate:
        live = {**_near_alone(gate, NEWER), **facts}
        return {**survey.facts(said), **live} if connect.over_api(node) else live
    if connect.over_api(node):
        return {**facts, **survey.facts(said)}
    return {**facts, **_criu_of(shell, int(said.get("server_pid") or 0))}


def _near_alone(reason: str, remedy: str) -> dict[str, object]:
    """A daemon that cannot move a running container, but its files: usable, for one mode."""
    return {"usable": True, "reason": f"near-live alone: {reason}", "not_live": [reason, remedy]}


def _criu_of(shell: Shell, pid: int) -> dict[str, object]:
    """Return the criu on the daemon's own PATH, and what decides whether the daemon's words suit it."""
    env = _environ(shell, pid)
    path = env.get("PATH") or DAEMON_PATH
    places = [posixpath.join(directory, "criu") for directory in path.split(":") if directory]
    criu = next((p for p, entry in zip(places, shell.call("stats", paths=places), strict=True) if entry), "")
    if not criu:
        return _near_alone(f"no criu on the daemon's PATH ({path})", f"install criu; or {NEAR_LIVE}")
    head = shell.run(["head", "-c", "4096", "--", criu], check=False).out
    seen = shell.call("stats", paths=["/etc", f"/proc/{pid}/root/etc"])
    if None in seen or len({(entry["dev"], entry["ino"]) for entry in seen}) != 1:
        reason = "the daemon sees an /etc of its own (a snap?), so its criu cannot be held"
        return _near_alone(reason, f"use the packages of the distribution; or {NEAR_LIVE}")
    return {
        "usable": True,
        "criu": criu,
        "criu_wrapper": head.startswith("#!") and "lsm-profile" in head,
        "apparmor": shell.call("stats", paths=[APPARMOR])[0] is not None,
        "soft_dirty": has_feature(shell, "mem_dirty_track"),
        "idmapped_off": env.get("LXD_IDMAPPED_MOUNTS_DISABLE", env.get("INCUS_IDMAPPED_MOUNTS_DISABLE")) == "1",
        "unified": shell.call("stats", paths=[CGROUP_V1_FREEZER])[0] is None,
        "tmp": env.get("TMPDIR") or "/tmp",
    }


def _environ(shell: Shell, pid: int) -> dict[str, str]:
    try:
        text = str(shell.call("read", path=f"/proc/{pid}/environ"))
    except HelperError:
        return {}
    return dict(word.split("=", 1) for word in text.split("\0") if "=" in word)


@hookimpl
def reberth_list(node: Node, shell: Shell) -> list[Found]:
    """The daemon's containers; none where there is no daemon."""
    socket = socket_of(node, shell)
    if not socket:
        return []
    found = []
    for one in Daemon(node, shell, socket).list("instances"):
        state = one.get("state") or {}
        memory = int((state.get("memory") or {}).get("usage") or 0)
        detail = one.get("description") or (one.get("config") or {}).get("image.description") or ""
        if one.get("type") == "container":
            found.append(
                Found("lxd", one["name"], str(one["status"]).lower(), int(state.get("pid") or 0), memory, detail)
            )
    return found


@hookimpl
def reberth_survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: dict[str, Any], options: Options
) -> Survey:
    """Daemons, container and target together; the checks are pure functions of what they say."""
    here, there = facts["source"]["lxd"], facts["target"]["lxd"]
    if not (here.get("usable") and there.get("usable")):
        return Survey()  # the plan says why, by `usable`
    if dead := list(checks.not_live(here, there, source.node.name, target.node.name)):
        return Survey(tuple(kinds.in_words_of(here["server"], dead)))
    refuse_one_daemon(here, there, source.node.name, target.node.name)
    daemons = Daemon(source.node, source, here["socket"]), Daemon(target.node, target, there["socket"])
    instance, pool = running(daemons[0], workload, here["server"]), other_pool(options)
    state = daemons[0].get("instances", workload.name, "state") or {}
    pid = int(state["pid"])
    tree = source.call("describe", pid=pid)
    root = tree["tasks"][0]
    want = keys.wanted(options, instance["expanded_config"], bool(here["soft_dirty"]))
    meets = rendezvous.choose(*daemons, here["server"], rendezvous.wish(options.backend_args), relays=False)
    found = [
        meets.check,
        *checks.daemons(here, there, source.node.name, target.node.name, want.precopy),
        *checks.shape(instance, here, there, root["comm"], _restored(tree), source.node.name),
        *checks.renamed(workload.name, target_name, target.node.name),
        *checks.kept(instance, options, here["server"], source.node.name),
        *checks.storage(instance, *daemons, target.node.name, pool),
        *checks.profiles_and_devices(instance, daemons[1], target, target.node.name),
    ]
    found += landing.decided(daemons, target, instance, pool, found)
    memory = int(tree["memory_bytes"])
    need = memory * (want.iterations + 1 if want.precopy else 1)
    for shell, fact in ((source, here), (target, there)):
        free = int(shell.call("space", paths=[fact["tmp"]])[fact["tmp"]])
        found += space_checks(need, free, shell.node.name)
    details = {
        "pid": pid,
        "start_ticks": root["start_ticks"],
        "leaf": f"lxc.payload.{workload.name}",
        "pool": landing.pool_there(instance, daemons[1], pool),
        "sockets": [here["socket"], there["socket"]],
        **meets.details(),
    }
    return told(here["server"], found, details, want, options)


def _restored(tree: dict[str, Any]) -> bool:
    """Tell whether criu has built it.

    Then it is in a time namespace of its own, which no daemon gives to a container.
    """
    return bool(tree["namespaces"].get("time") != tree["helper_namespaces"].get("time"))
