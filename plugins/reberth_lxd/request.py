"""The two requests of a live move, built by us; pure functions of the instance's document.

pylxd's own `Instance.migrate` never says `live` to the target, and loses profiles (pylxd 2.4.2, tried 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What the daemon itself computes for the place where the instance is now.
LOCAL = ("volatile.last_state.", "volatile.idmap.", "volatile.apply_")


def for_source(name: str) -> dict[str, Any]:
    """Offer the instance for a live move.

    `allow_inconsistent` leaves out the freeze during the first copy of the root file system: the copy that counts is
    made at the end, frozen.
    """
    return {"name": name, "migration": True, "live": True, "instance_only": False, "allow_inconsistent": True}


def for_target(
    instance: Mapping[str, Any], url: str, certificate: str, secrets: Mapping[str, str], keys: Mapping[str, str]
) -> dict[str, Any]:
    """Create the instance on the target and pull it from `url` (the source's operation); `keys` are set as they were.

    `certificate` is the source daemon's own, so nobody else can stand in for it.
    """
    config = {k: v for k, v in instance["config"].items() if not k.startswith(LOCAL)}
    config = {k: v for k, v in config.items() if k not in keys} | {k: v for k, v in keys.items() if v}
    source: dict[str, Any] = {
        "type": "migration",
        "mode": "pull",
        "operation": url,
        "certificate": certificate,
        "secrets": dict(secrets),
        "live": True,
        "instance_only": False,
    }
    if "volatile.base_image" in config:
        source["base-image"] = config["volatile.base_image"]
    kept = ("name", "architecture", "devices", "ephemeral", "profiles", "description", "stateful")
    return {**{k: instance[k] for k in kept if k in instance}, "type": "container", "config": config, "source": source}
