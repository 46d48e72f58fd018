"""CRIU's stats-dump, read without pycriu: a protobuf of varints behind CRIU's image header.

Field numbers and units from CRIU's images/stats.proto. The file exists only after the final dump has ended.
"""

from __future__ import annotations

import os
import struct
from typing import Any

FIELDS = {
    1: "freezing_us",
    2: "frozen_us",
    3: "memdump_us",
    4: "memwrite_us",
    5: "pages_scanned",
    6: "pages_skipped_parent",
    7: "pages_written",
    9: "pages_lazy",
    12: "shpages_scanned",
    13: "shpages_skipped_parent",
    14: "shpages_written",
}
HEADER_BYTES = 12  # two magics, then the length of the one record


def read_dump_stats(path: str) -> dict[str, int]:
    """Counters of one dump; empty when there are none or they make no sense. Shared memory pages are added."""
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 16)
        size = struct.unpack_from("<I", data, 8)[0]
        return _dump(data[HEADER_BYTES : HEADER_BYTES + size])
    except (OSError, struct.error, IndexError):
        return {}


def sizes(work: str, sent: dict[str, Any] | None) -> dict[str, Any]:
    """Bytes of all images of a dump, and of the pages in them; `sent` are pages that went to a page server instead."""
    found = [(e.name, e.stat().st_size) for e in os.scandir(work)]
    apart = int(sent["bytes"]) if sent else 0
    images = sum(size for name, size in found if name.endswith(".img"))
    pages = sum(size for name, size in found if name.startswith("pages-"))
    return {"images_bytes": images + apart, "pages_bytes": pages + apart, "sent": sent}


def _dump(record: bytes) -> dict[str, int]:
    found: dict[str, int] = {}
    key, at = _varint(record, 0)
    if key != 0x0A:  # field 1 of stats_entry: the dump's
        return {}
    size, at = _varint(record, at)
    end = at + size
    while at < end:
        key, at = _varint(record, at)
        if key & 7:
            return {}
        value, at = _varint(record, at)
        if key >> 3 in FIELDS:
            found[FIELDS[key >> 3]] = value
    for name in ("scanned", "skipped_parent", "written"):
        found[f"pages_{name}"] = found.get(f"pages_{name}", 0) + found.pop(f"shpages_{name}", 0)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
