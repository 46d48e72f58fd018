"""Whether a node runs out of memory: the one reason for which a held copy is given up without a word of the source."""

from __future__ import annotations

import contextlib

LEAST_BYTES = 64 << 20
LEAST_SHARE = 0.01


def shortage() -> str:
    """Return what is short, in words; empty while a hundredth of the memory, and 64 MiB, can still be had."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            key, _, rest = line.partition(":")
            found[key] = int(rest.split()[0]) * 1024
    free, total = found.get("MemAvailable"), found.get("MemTotal", 0)
    if free is None or free >= max(LEAST_BYTES, int(total * LEAST_SHARE)):
        return ""
    return f"only {free >> 20} MiB of memory are left"
