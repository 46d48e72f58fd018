"""LXD or Incus: which of the two a daemon is, by the extensions of its API, and the words of its client; pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from reberth_hooks import Check

# Incus has renamed these with everything else of its parent's name; all versions of both list one of them.
TELLTALE = {"restrict_devlxd": "lxd", "restrict_dev_incus": "incus"}
NEEDED = ("instances", "migration_pre_copy")
CLIENT_OF_LXD = re.compile(r"(?<![\w.])lxc (?=[a-z])")  # the program, not `raw.lxc` and not the keys `lxc.*`


def kind_of(extensions: Collection[str]) -> str:
    """`lxd` or `incus`, or empty for neither."""
    return next((kind for telltale, kind in TELLTALE.items() if telltale in extensions), "")


def lacking(extensions: Collection[str]) -> str:
    """Return what the daemon's API must have and has not, in words; empty when it has all."""
    names = [name for name in NEEDED if name not in extensions]
    return f"its API has no {' and no '.join(names)}" if names else ""


def in_words_of(kind: str, checks: Iterable[Check]) -> Iterator[Check]:
    """Return the same checks, whose remedies name the client that there is."""
    return (replace(check, remedy=spoken(kind, check.remedy)) for check in checks)


def spoken(kind: str, remedy: str) -> str:
    """Return a command of the `lxc` client as a command of the client that belongs to the daemon."""
    if kind != "incus":
        return remedy
    return CLIENT_OF_LXD.sub("incus ", remedy).replace("config trust add ", "config trust add-certificate ")
