"""The build-id of an ELF file: CRIU compares it where a file has one, and the size only else."""

from __future__ import annotations

import contextlib
import struct

PT_NOTE, NT_GNU_BUILD_ID = 4, 3
MOST_HEADERS, MOST_NOTE_BYTES = 64, 1 << 16


def build_id(path: str) -> str:
    """In hexadecimal digits; empty for what is no 64-bit little-endian ELF file, cannot be read or has none."""
    with contextlib.suppress(OSError, struct.error), open(path, "rb") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01":
            return ""
        (table,), (size, count) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<HH", head, 54)
        for number in range(min(count, MOST_HEADERS)):
            file.seek(table + number * size)
            kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", file.read(56))
            if kind == PT_NOTE:
                file.seek(offset)
                found = _in_notes(file.read(min(length, MOST_NOTE_BYTES)))
                if found:
                    return found
    return ""


def _in_notes(data: bytes) -> str:
    at = 0
    while at + 12 <= len(data):
        name_bytes, value_bytes, kind = struct.unpack_from("<III", data, at)
        name_at = at + 12
        value_at = name_at + ((name_bytes + 3) & ~3)
        if kind == NT_GNU_BUILD_ID and data[name_at : name_at + name_bytes] == b"GNU\0":
            return data[value_at : value_at + value_bytes].hex()
        at = value_at + ((value_bytes + 3) & ~3)
    return ""
