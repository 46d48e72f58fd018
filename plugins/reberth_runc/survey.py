"""What can be said of a container before anything is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from reberth_hooks import (
    Check,
    CommandError,
    Found,
    HelperError,
    Level,
    Mode,
    Node,
    Options,
    Shell,
    Survey,
    UsageError,
    Workload,
    hookimpl,
)
from reberth_hooks.criu.modes import unfit_modes
from reberth_hooks.criu.objects import object_checks, terminals_outside
from reberth_hooks.criu.preflight import (
    both_ends,
    criu_faults,
    has_feature,
    image_space_checks,
    space_checks,
    tcp_checks,
    tcp_words,
    version_of,
)
from reberth_hooks.criu.systemd import supervisor_checks, unit_details
from reberth_runc.bundle import config_checks, joined_namespaces, outside_mounts

LEAST_RUNC, LEAST_CRIU = (1, 0), (3, 19)
FEATURES = ("mem_dirty_track", "uffd-noncoop")
SPARE_BYTES = 64 << 20
RUNC_CONF = "/etc/criu/runc.conf"


def runc(node: Node) -> list[str]:
    """The program with the node's own state directory (`[nodes.X.runc] root`)."""
    root = node.options_of("runc").get("root")
    return ["runc", "--root", str(root)] if root else ["runc"]


def runc_root(node: Node) -> str:
    """Where that program keeps its records of containers."""
    return str(node.options_of("runc").get("root") or "/run/runc").rstrip("/")


@hookimpl
def reberth_probe(node: Node, shell: Shell) -> dict[str, object]:
    """Versions of runc and criu; `usable` with the reason when not."""
    found: dict[str, object] = {}
    for tool, least in (("runc", LEAST_RUNC), ("criu", LEAST_CRIU)):
        try:
            version = version_of(shell.run([tool, "--version"]).out)
        except HelperError as error:
            return {"usable": False, "reason": error.message, "remedy": error.hint}
        found[tool] = list(version)
        if version < least:
            reason = f"{tool} {'.'.join(map(str, version))} is older than {'.'.join(map(str, least))}"
            return {"usable": False, "reason": reason, "remedy": f"install a newer {tool}", **found}
    features = {name: has_feature(shell, name) for name in FEATURES}
    return {"usable": True, "features": features, "checks": criu_faults(version), **found}


def containers(node: Node, shell: Shell) -> list[dict[str, Any]]:
    """What `runc list` says."""
    return json.loads(shell.run([*runc(node), "list", "--format", "json"]).out or "null") or []


@hookimpl
def reberth_list(node: Node, shell: Shell) -> list[Found]:
    """All containers of this runc."""
    return [Found("runc", c["id"], c["status"], c["pid"], 0, c["bundle"]) for c in containers(node, shell)]


def state(node: Node, shell: Shell, name: str) -> dict[str, Any]:
    """`runc state`; UsageError when there is no such container."""
    try:
        found: dict[str, Any] = json.loads(shell.run([*runc(node), "state", name]).out)
    except CommandError as error:
        raise UsageError(
            f"no container {name} on node {node.name}", hint=f"reberth ls {node.name}", tail=error.tail
        ) from error
    return found


@hookimpl
def reberth_survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: dict[str, Any], options: Options
) -> Survey:
    """State, configuration, processes, and whether the target has room and name for it."""
    found = state(source.node, source, workload.name)
    status = found["status"]
    if status != "running":
        text = f"the container is {status}"
        return Survey((Check("running", Level.FAIL, text, "start or resume it first", source.node.name),))
    bundle = str(found["bundle"])
    config_text = source.call("read", path=f"{bundle}/config.json")
    config = json.loads(config_text)
    tree = source.call("describe", pid=int(found["pid"]))
    need = int(tree["memory_bytes"] * 1.1) + SPARE_BYTES
    hello = {side: facts[side]["hello"] for side in ("source", "target")}
    left = target.call("is_left", path=bundle)
    checks = [
        *config_checks(config, bundle, target.node.options_of("runc"), target.node.name),
        *object_checks(tree, hello["source"], source.node.name),
        *tcp_checks(tree, options, source.node.name),
        *supervisor_checks(tree, options, source.node.name),
        *_stdio_checks(tree, source.node.name),
        *both_ends(facts, "runc", "criu", tree, options, source, target),
        *_runc_checks(facts),
        *_settings_checks(source, target),
        *image_space_checks(need, source),
        *image_space_checks(need, target),
        *space_checks(need, hello["source"]["mem_available_bytes"], source.node.name),
        *space_checks(2 * need, hello["target"]["mem_available_bytes"], target.node.name),
        *_target_checks(config, bundle, target_name, left, source, target),
    ]
    details = {
        "pid": tree["tasks"][0]["pid"],
        "start_ticks": tree["tasks"][0]["start_ticks"],
        "tasks": sum(task["state"] not in "ZX" for task in tree["tasks"]),
        "memory_bytes": tree["memory_bytes"],
        "need_bytes": need,
        "bundle": bundle,
        "cgroup": tree["cgroup"],
        "tcp": list(tcp_words(tree, options)),
        "replaces": left["exists"],
        "node_network": tree["namespaces"]["net"] == tree["helper_namespaces"]["net"],
        "loopback_up": tree["loopback_up"],
        **unit_details(tree, options),
    }
    return Survey(tuple(checks), details, _unfit_modes(facts, tree, details))


def _unfit_modes(facts: dict[str, Any], tree: dict[str, Any], details: dict[str, Any]) -> dict[str, Check]:
    """As for a process tree; and runc's page server listens on a port, which only a network of its own protects."""
    found = unfit_modes(facts, "runc", tree, details["tcp"])
    if details["node_network"]:
        text = "the container shares the node's network, where others would reach its page server"
        check = Check("post-copy-network", Level.FAIL, text, "give it a network namespace, or --mode stop-and-copy")
        found = {mode.value: check for mode in (Mode.POST_COPY, Mode.HYBRID)} | found
    return found


def _stdio_checks(tree: dict[str, Any], node: str) -> Iterator[Check]:
    if terminals_outside(tree):
        yield Check("console", Level.FAIL, "processes hold a terminal", "a console does not travel", node)
    if tree["outside_mounts"]:
        names = ", ".join(ascii(p)[1:-1] for p in tree["outside_mounts"][:4])
        text = f"open files lead out of the container: {names}"
        remedy = "start it with its output to a file of its own or to a pipe: CRIU cannot find these on the target"
        yield Check("stdio", Level.FAIL, text, remedy, node)


def _runc_checks(facts: dict[str, Any]) -> Iterator[Check]:
    """An older runc may not know what a newer one has written into its record of the container."""
    here, there = (tuple(facts[side]["runc"].get("runc") or ()) for side in ("source", "target"))
    if there[:2] < here[:2]:
        text = f"runc {'.'.join(map(str, there))} on the target is older than {'.'.join(map(str, here))}"
        yield Check("runc-older", Level.WARN, text, "install the same runc on both nodes")


def _settings_checks(*shells: Shell) -> Iterator[Check]:
    """runc lets criu read a file of settings, in which an action script may stand: it runs as root with every move."""
    for shell in shells:
        if shell.call("stats", paths=[RUNC_CONF])[0] is not None:
            text = f"criu under runc also reads {RUNC_CONF}"
            yield Check("runc-conf", Level.WARN, text, "look at what it says, or move it away", shell.node.name)


def _target_checks(
    config: dict[str, Any], bundle: str, name: str, left: dict[str, Any], source: Shell, target: Shell
) -> Iterator[Check]:
    node = target.node.name
    if any(c["id"] == name for c in containers(target.node, target)):
        yield Check("name", Level.FAIL, f"a container {name} exists there", f"move to {node}:OTHERNAME", node)
    needed = [*outside_mounts(config, bundle), *joined_namespaces(config).values()]
    for path, there in zip(needed, target.call("stats", paths=needed), strict=True):
        if there is None:
            yield Check("mounts", Level.FAIL, f"{path!a} does not exist there", "make it, as it is on the source", node)
    if left["exists"] and not left["left"]:
        same = target.call("stats", paths=[f"{bundle}/config.json"]) == source.call(
            "stats", paths=[f"{bundle}/config.json"]
        )
        if same:
            text = "the bundle is on storage that both nodes share, it seems: made sure of before the freeze"
            yield Check("bundle", Level.OK, text, "", node)
        else:
            text = f"{bundle!a} exists there, and is no copy that an earlier move left behind"
            yield Check("bundle", Level.FAIL, text, "move it out of the way: it would be overwritten", node)
    size = int(source.run(["du", "-sk", "--", bundle]).out.split()[0]) * 1024
    free = target.call("space", paths=[bundle])[bundle]
    if free < size * 1.1:
        text = f"{size >> 20} MiB of files, {free >> 20} MiB free"
        yield Check("disk", Level.FAIL, text, f"free space for {bundle!a} there", node)
