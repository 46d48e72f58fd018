"""The way to a phone: ssh to its own sshd, over Wi-Fi or through a port that `adb forward` has opened here."""

from __future__ import annotations

import shlex
from typing import Any

from reberth_hooks import Node, Route, UsageError, hookimpl
from reberth_hooks.ssh import BULK_CIPHERS, PATIENT, SAFE

USER = "shell"
# A session of a phone's sshd gets PATH=/usr/bin:/bin, where a phone has nothing, and there is no /tmp.
ENVIRONMENT = (
    "/system/bin/env",
    "PATH=/system/bin:/system/xbin:/vendor/bin",
    "TMPDIR=/data/local/tmp",
)
# The form that AOSP's and toybox's su take, which start the words without a shell in between.
BECOME = {"none": (), "su": ("su", "root")}


@hookimpl
def reberth_connect(node: Node) -> Route:
    """The words before a command. The host key is looked up by the node's name: the same over USB and over Wi-Fi."""
    options = node.options_of("android")
    if node.become not in BECOME:
        raise UsageError(f"node {node.name}: become = {node.become!r} is not known to connector android", hint="su")
    start = ["ssh", "-F", str(options["config"])] if options.get("config") else ["ssh"]
    words = ["-o", f"HostKeyAlias={node.name}", "-o", "CheckHostIP=no"]
    if options.get("known_hosts"):
        words += ["-o", f'UserKnownHostsFile="{options["known_hosts"]}"', "-o", "GlobalKnownHostsFile=none"]
    if options.get("identity"):
        words += ["-o", "IdentitiesOnly=yes", "-i", str(options["identity"])]
    words += ["-p", _port(node.name, options), "-l", USER]
    if not node.address:
        raise UsageError(f"node {node.name} has no address", hint="reberth android setup")
    tried = shlex.join([*start, *words, "--", node.address, "true"])
    hint = f"try: {tried}"
    if options.get("forward"):
        hint = f"plugged in? then: reberth android start {node.name} (it opens the way over USB again); {hint}"
    words = [*SAFE, *words]
    bulk = (*words, "-c", BULK_CIPHERS, "-o", "Compression=no", "--", node.address)
    return Route(
        control=(*start, *words, "--", node.address),
        bulk=(*start, *bulk),
        pages=(*start, *PATIENT, *bulk),
        quoted=True,
        become=(*_environment(options), *BECOME[node.become]),
        hint=hint,
        helper=bool(options.get("python")),
    )


def _port(name: str, options: Any) -> str:
    port = str(options.get("port") or 22)
    if not port.isdecimal():
        raise UsageError(f"node {name}: port = {port!a} is no number", hint="[nodes.NAME.android] port")
    return port


def _environment(options: Any) -> tuple[str, ...]:
    """Return the environment for a command; the folder of the phone's Python comes first where one was found."""
    python = str(options.get("python") or "")
    folder = python.rpartition("/")[0]
    return tuple(
        w.replace("PATH=", f"PATH={folder}:", 1) if folder and w.startswith("PATH=") else w for w in ENVIRONMENT
    )
