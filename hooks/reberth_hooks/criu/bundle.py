"""What a container's config.json asks for, judged for a move; pure functions of the document.

The target has never seen this configuration. Hooks, devices and mounts that lead out of the bundle run or reach things
there as root, so the target's own configuration must allow them (`[nodes.X.BACKEND] allow_hooks, allow_mounts,
allow_devices`); everything else of the document stays inside the container.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from reberth_hooks import Check, Level


def outside_mounts(config: Mapping[str, Any], bundle: str) -> list[str]:
    """Sources of bind mounts that are not inside the bundle, as absolute paths."""
    found = []
    for mount in config.get("mounts") or []:
        options = mount.get("options") or []
        if mount.get("type") == "bind" or "bind" in options or "rbind" in options:
            source = posixpath.normpath(posixpath.join(bundle, str(mount.get("source", ""))))
            if not inside(source, bundle):
                found.append(source)
    return found


def places_outside(config: Mapping[str, Any], bundle: str) -> dict[str, str]:
    """Return where each mount of the container lies on the node when it is a bind mount from outside the bundle, else
    empty.

    What lies in the bundle travels with it, and what lies in filesystems of the container's own in CRIU's images.
    """
    found = {}
    for mount in config.get("mounts") or []:
        outside = outside_mounts({"mounts": [mount]}, bundle)
        found[posixpath.normpath(str(mount.get("destination", "")))] = outside[0] if outside else ""
    return found


def inside(path: str, directory: str) -> bool:
    """Tell whether a normalised absolute path is the directory or below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def rootfs_of(config: Mapping[str, Any], bundle: str) -> str:
    """Return the absolute path of the root filesystem."""
    return posixpath.normpath(posixpath.join(bundle, str((config.get("root") or {}).get("path", "rootfs"))))


def joined_namespaces(config: Mapping[str, Any]) -> dict[str, str]:
    """Namespaces that the container joins by a path instead of having its own: kind -> path."""
    spaces = (config.get("linux") or {}).get("namespaces") or []
    return {str(s.get("type")): str(s["path"]) for s in spaces if s.get("path")}


def config_checks(
    config: Mapping[str, Any], bundle: str, allowed: Mapping[str, Any], target: str, backend: str
) -> Iterator[Check]:
    """Name each thing that a move cannot carry, or that the target's table `[nodes.TARGET.BACKEND]` does not allow."""
    table = f"[nodes.{target}.{backend}]"
    if (config.get("process") or {}).get("terminal"):
        yield _no("console", "the container has a terminal", "run it with terminal: false; a console does not travel")
    if not inside(rootfs_of(config, bundle), bundle):
        text = f"its root filesystem {rootfs_of(config, bundle)!a} is outside the bundle"
        yield _no("rootfs", text, "put it into the bundle: the bundle is what travels")
    for kind, path in joined_namespaces(config).items():
        if kind != "network":
            yield _no("external-namespaces", f"it joins the {kind} namespace {path!a}", "give it one of its own")
    hooks = sorted(k for k, v in (config.get("hooks") or {}).items() if v)
    if hooks and not allowed.get("allow_hooks"):
        text = f"its configuration runs hooks as root ({', '.join(hooks)})"
        yield _no("hooks", text, f"allow it there: {table} allow_hooks = true", target)
    lead_out = [p for p in outside_mounts(config, bundle) if not _allowed(p, allowed.get("allow_mounts"))]
    if lead_out:
        text = f"mounts lead out of the bundle: {', '.join(map(ascii, lead_out[:4]))}"
        yield _no("mounts", text, f"allow them there: {table} allow_mounts = {lead_out[:4]}", target)
    devices = [str(d.get("path")) for d in (config.get("linux") or {}).get("devices") or []]
    strange = [d for d in devices if not _allowed(d, allowed.get("allow_devices"))]
    if strange:
        text = f"devices: {', '.join(map(ascii, strange[:4]))}"
        yield _no("devices", text, f"allow them there: {table} allow_devices = {strange[:4]}", target)


def _allowed(path: str, prefixes: Any) -> bool:
    return any(inside(path, posixpath.normpath(str(p))) for p in prefixes or [])


def _no(id: str, reason: str, remedy: str, node: str = "") -> Check:
    return Check(id, Level.FAIL, reason, remedy, node)
