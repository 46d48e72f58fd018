"""Remotes of the `lxc` or `incus` client as nodes: behind `reberth node import-lxd` and `--remotes`."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reberth.config.names import is_name
from reberth.connect.process import run_local
from reberth_hooks import CommandError, Node, UsageError

CLIENTS = {"lxc": "LXC_ALIASES", "incus": "INCUS_ALIASES"}
SOCKETS = {
    "lxc": ("/var/snap/lxd/common/lxd/unix.socket", "/var/lib/lxd/unix.socket"),
    "incus": ("/run/incus/unix.socket", "/var/lib/incus/unix.socket"),
}
CONNECTOR = "lxd"


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote that can be a node: its name, host (empty for this machine's own daemon), and the daemon's address."""

    name: str
    host: str
    url: str


def remotes(client: str) -> list[Remote]:
    """Return the client's own remotes that are daemons behind HTTPS; UsageError for another program, CommandError."""
    return [remote for remote in _all(client) if remote.host]


def nodes(client: str) -> dict[str, Node]:
    """Return all of the client's daemons as nodes that are reached by their API alone, this machine's own among
    them.
    """
    return {remote.name: over_api(remote, client) for remote in _all(client)}


def over_api(remote: Remote, client: str) -> Node:
    """Return a remote as a node without a login, with the certificates that the client keeps."""
    table = {**over_ssh(remote, client), "identity": str(client_dir(client).absolute())}
    return Node(remote.name, remote.host, CONNECTOR, backends=("lxd",), options={"lxd": table})


def over_ssh(remote: Remote, client: str) -> dict[str, str]:
    """Return what a node by ssh keeps of a remote.

    Its address, and its certificate, as ssh may lead to another machine.
    """
    pinned = client_dir(client) / "servercerts" / f"{remote.name}.crt"
    known = {"certificate": str(pinned.absolute())} if pinned.exists() and remote.host else {}
    return {"url": remote.url, **known}


def client_dir(client: str) -> Path:
    """Return where the client keeps its remotes, certificates and keys: one of a snap has a place of its own.

    Both places may be there, with remotes of the same names that are other daemons.
    """
    if own := os.environ.get("LXD_CONF" if client == "lxc" else "INCUS_CONF"):
        return Path(own)
    program = os.path.realpath(shutil.which(client) or client)
    is_snap = "/snap/" in f"{shutil.which(client)}" or program.endswith("/snap")
    return Path("~/snap/lxd/common/config" if client == "lxc" and is_snap else f"~/.config/{client}").expanduser()


def _socket(client: str) -> str:
    """Return where this machine's own daemon listens, as the client finds it."""
    kind = "LXD" if client == "lxc" else "INCUS"
    if own := os.environ.get(f"{kind}_SOCKET"):
        return own
    if own := os.environ.get(f"{kind}_DIR"):
        return f"{own}/unix.socket"
    return next((place for place in SOCKETS[client] if Path(place).exists()), SOCKETS[client][-1])


def _all(client: str) -> list[Remote]:
    if client not in CLIENTS:
        raise UsageError(f"{client!a} is neither lxc nor incus")
    env = {**os.environ, CLIENTS[client]: "1"}  # past any alias, ours among them
    done = run_local([client, "remote", "list", "--format", "json"], env=env)
    if done.code:
        raise CommandError(f"{client} remote list ended with {done.code}", tail=done.err)
    try:
        said: dict[str, dict[str, Any]] = json.loads(done.out)
    except ValueError as error:
        raise CommandError(f"{client} remote list gave no JSON", tail=done.out[-300:]) from error
    found = []
    for name, remote in sorted(said.items()):
        url = str(remote.get("Addr") or next(iter(remote.get("Addrs") or ()), ""))  # newer ones of Incus have several
        host = urlsplit(url).hostname or ""
        if url.startswith("unix:") and is_name(name):
            found.append(Remote(name, "", f"unix://{urlsplit(url).path or _socket(client)}"))
        public = remote.get("Public") or remote.get("Protocol") not in ("lxd", "incus")
        if url.startswith("https://") and host and not public and is_name(name):
            found.append(Remote(name, host, url))
    return found
