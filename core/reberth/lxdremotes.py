"""The work behind `reberth node import-lxd`: remotes of the `lxc` or `incus` client, as nodes of the inventory."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from reberth.names import is_name
from reberth.shell import run_local
from reberth_hooks import CommandError, UsageError

CLIENTS = {"lxc": "LXC_ALIASES", "incus": "INCUS_ALIASES"}


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote that can be a node: its name, host, and the daemon's own address."""

    name: str
    host: str
    url: str


def remotes(client: str) -> list[Remote]:
    """The client's own remotes that are daemons behind HTTPS; UsageError for another program, CommandError."""
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
        url = str(remote.get("Addr") or "")
        host = urlsplit(url).hostname or ""
        public = remote.get("Public") or remote.get("Protocol") not in ("lxd", "incus")
        if url.startswith("https://") and host and not public and is_name(name):
            found.append(Remote(name, host, url))
    return found
