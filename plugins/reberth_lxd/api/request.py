"""The requests of a live move, built by us; pure functions of the instance's document.

pylxd's own `Instance.migrate` never says `live` to the target, and loses profiles (pylxd 2.4.2, tried 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What the daemon itself computes for the place where the instance is now.
LOCAL = ("volatile.last_state.", "volatile.idmap.", "volatile.apply_")


def for_source(name: str, target: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Offer the instance for a live move, or with `target` push it there.

    `target` has the operation's whole URL, the daemon's certificate and the secrets. `allow_inconsistent` leaves out
    the freeze during the first copy of the root file system: the copy that counts is made at the end, frozen.
    """
    words = {"name": name, "migration": True, "live": True, "instance_only": False, "allow_inconsistent": True}
    return {**words, "target": dict(target)} if target else words


def for_target(
    instance: Mapping[str, Any], url: str, certificate: str, secrets: Mapping[str, str], keys: Mapping[str, str]
) -> dict[str, Any]:
    """Create the instance on the target and pull it from `url` (the source's operation); `keys` are set as they were.

    `certificate` is the source daemon's own, so no other daemon can stand in for it.
    """
    return _copy(instance, keys, mode="pull", operation=url, certificate=certificate, secrets=dict(secrets))


def for_push(instance: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """Create the instance on the target, which waits for a client that knows its operation's secrets."""
    return _copy(instance, keys, mode="push")


def for_nothing(url: str, certificate: str, kind: str, alias: str) -> dict[str, Any]:
    """Look at `url` for an image that does not exist; `kind` is lxd or incus, also the word for its protocol."""
    there = {"server": url, "protocol": kind, "certificate": certificate, "alias": alias}
    return {"source": {"type": "image", "mode": "pull", **there}, "public": False}


def _copy(instance: Mapping[str, Any], keys: Mapping[str, str], **how: Any) -> dict[str, Any]:
    config = {k: v for k, v in instance["config"].items() if not k.startswith(LOCAL)}
    config = {k: v for k, v in config.items() if k not in keys} | {k: v for k, v in keys.items() if v}
    source: dict[str, Any] = {"type": "migration", **how, "live": True, "instance_only": False}
    if "volatile.base_image" in config:
        source["base-image"] = config["volatile.base_image"]
    kept = ("name", "architecture", "devices", "ephemeral", "profiles", "description", "stateful")
    return {**{k: instance[k] for k in kept if k in instance}, "type": "container", "config": config, "source": source}
