"""The preflight of a container of an OCI runtime: what can be said of it before anything is touched.

The runtime's own words (`list`, `state`) are those of runc's command line, which crun and others have too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reberth_hooks.criu.bundle import joined_namespaces, outside_mounts
from reberth_hooks.criu.modes import unfit_modes
from reberth_hooks.criu.objects import terminals_outside
from reberth_hooks.criu.preflight import version_of
from reberth_hooks.errors import CommandError, HelperError, UsageError
from reberth_hooks.protocols import Shell
from reberth_hooks.types import Check, Level, Mode

SPARE_BYTES = 64 << 20


def probe(shell: Shell, least: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Ask each program for its version; return the versions, and `reason` and `remedy` where one does not do."""
    found: dict[str, Any] = {}
    for tool, floor in least.items():
        try:
            version = version_of(shell.run([tool, "--version"]).out)
        except HelperError as error:
            return {"usable": False, "reason": error.message, "remedy": error.hint}
        found[tool] = list(version)
        if version < floor:
            reason = f"{tool} {'.'.join(map(str, version))} is older than {'.'.join(map(str, floor))}"
            return {"usable": False, "reason": reason, "remedy": f"install a newer {tool}", **found}
    return {"usable": True, **found}


def containers(program: Sequence[str], shell: Shell) -> list[dict[str, Any]]:
    """Return what the runtime's `list` says."""
    return json.loads(shell.run([*program, "list", "--format", "json"]).out or "null") or []


def state(program: Sequence[str], shell: Shell, name: str) -> dict[str, Any]:
    """Return what the runtime's `state` says; raise UsageError when there is no such container."""
    try:
        found: dict[str, Any] = json.loads(shell.run([*program, "state", name]).out)
    except CommandError as error:
        hint = f"reberth ls {shell.node.name}"
        raise UsageError(f"no container {name} on node {shell.node.name}", hint=hint, tail=error.tail) from error
    return found


def stdio_checks(tree: Mapping[str, Any], node: str) -> Iterator[Check]:
    """Refuse a terminal, and open files that lead out of the container."""
    if terminals_outside(tree):
        yield Check("console", Level.FAIL, "processes hold a terminal", "a console does not travel", node)
    if tree["outside_mounts"]:
        names = ", ".join(ascii(p)[1:-1] for p in tree["outside_mounts"][:4])
        text = f"open files lead out of the container: {names}"
        remedy = "start it with its output to a file of its own or to a pipe: CRIU cannot find these on the target"
        yield Check("stdio", Level.FAIL, text, remedy, node)


def older_checks(facts: Mapping[str, Any], name: str) -> Iterator[Check]:
    """Warn of an older runtime on the target: it may not know what a newer one has written into its record."""
    here, there = (tuple(facts[side][name].get(name) or ()) for side in ("source", "target"))
    if there[:2] < here[:2]:
        text = f"{name} {'.'.join(map(str, there))} on the target is older than {'.'.join(map(str, here))}"
        yield Check(f"{name}-older", Level.WARN, text, f"install the same {name} on both nodes")


def settings_checks(name: str, paths: Sequence[str], *shells: Shell) -> Iterator[Check]:
    """Warn of a file of settings that the runtime lets criu read: an action script in it runs as root."""
    for shell in shells:
        for path, found in zip(paths, shell.call("stats", paths=list(paths)) if paths else (), strict=True):
            if found is not None:
                text = f"criu under {name} also reads {path}"
                yield Check(f"{name}-conf", Level.WARN, text, "look at what it says, or move it away", shell.node.name)


def place_checks(config: Mapping[str, Any], bundle: str, source: Shell, target: Shell) -> Iterator[Check]:
    """Judge what the target must have (mounts, namespaces, room) and must not have (another bundle)."""
    node = target.node.name
    needed = [*outside_mounts(config, bundle), *joined_namespaces(config).values()]
    for path, there in zip(needed, target.call("stats", paths=needed), strict=True):
        if there is None:
            yield Check("mounts", Level.FAIL, f"{path!a} does not exist there", "make it, as it is on the source", node)
    left = target.call("is_left", path=bundle)
    if left["exists"] and not left["left"]:
        yield _bundle_check(bundle, source, target)
    size = int(source.run(["du", "-sk", "--", bundle]).out.split()[0]) * 1024
    free = target.call("space", paths=[bundle])[bundle]
    if free < size * 1.1:
        text = f"{size >> 20} MiB of files, {free >> 20} MiB free"
        yield Check("disk", Level.FAIL, text, f"free space for {bundle!a} there", node)


def _bundle_check(bundle: str, source: Shell, target: Shell) -> Check:
    config = [f"{bundle}/config.json"]
    if target.call("stats", paths=config) == source.call("stats", paths=config):
        text = "the bundle is on storage that both nodes share, it seems: made sure of before the freeze"
        return Check("bundle", Level.OK, text, "", target.node.name)
    text = f"{bundle!a} exists there, and is no copy that an earlier move left behind"
    return Check("bundle", Level.FAIL, text, "move it out of the way: it would be overwritten", target.node.name)


def unfit(facts: Mapping[str, Any], name: str, tree: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Check]:
    """Return the modes that cannot be: those of a process tree, and post-copy in the node's network.

    The runtime's page server listens on a port, which only a network of its own protects.
    """
    found = unfit_modes(facts, name, tree, details["tcp"])
    if details["node_network"]:
        text = "the container shares the node's network, where others would reach its page server"
        check = Check("post-copy-network", Level.FAIL, text, "give it a network namespace, or --mode stop-and-copy")
        found = {mode.value: check for mode in (Mode.POST_COPY, Mode.HYBRID)} | found
    return found
