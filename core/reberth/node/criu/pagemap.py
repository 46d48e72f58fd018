"""How many pages a dump has left behind: CRIU's pagemap images, read without CRIU.

An image is a magic of eight bytes, then messages of protobuf, each behind its length in four bytes. The first of a
pagemap is its head; each other one is a run of pages (CRIU's images/pagemap.proto, read 2026-11-25: vaddr = 1,
compat_nr_pages = 2, in_parent = 3, flags = 4, nr_pages = 5, the last one since 4.2).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from reberth.node.errors import OpError

PE_PARENT, PE_LAZY, PE_PRESENT = 1, 2, 4
NAME = re.compile(r"pagemap-(\d+)\.img\Z")
VADDR, OLD_COUNT, IN_PARENT, FLAGS, COUNT = 1, 2, 3, 4, 5


class Extent(NamedTuple):
    """A run of pages of one process: first address, number of pages, and the flags PE_*."""

    vaddr: int
    pages: int
    flags: int


def lazy_pages(directory: str) -> dict[int, int]:
    """Pages that were left for later, by the pid in the workload's own namespace."""
    found: dict[int, int] = {}
    for pid, extent in lazy_extents(directory):
        found[pid] = found.get(pid, 0) + extent.pages
    return found


def lazy_extents(directory: str) -> Iterator[tuple[int, Extent]]:
    """Yield each run of them, with its process."""
    for file in sorted(os.listdir(directory)):
        name = NAME.match(file)
        if name:
            for extent in extents(os.path.join(directory, file)):
                if extent.flags & PE_LAZY and not extent.flags & PE_PARENT:
                    yield int(name[1]), extent


def check_left(directory: str) -> None:
    """Raise OpError `pages` when a dump that was to leave its pages behind has written some of them into its images.

    Seen once with runc 1.1.15 and criu 4.2.1 on a busy machine: the images held all pages, criu served none, and the
    copy would have waited for them.
    """
    written = sum(extent.pages for _, extent in lazy_extents(directory) if extent.flags & PE_PRESENT)
    if written:
        text = f"criu wrote {written} pages into its images that it was to leave behind for a post-copy"
        raise OpError("pages", text, hint="try again, or --mode stop-and-copy")


def extents(path: str) -> Iterator[Extent]:
    """Yield the runs of one pagemap image; raises OpError `images` when it is none."""
    for fields in messages(path)[1:]:
        flags = fields.get(FLAGS, PE_PARENT if fields.get(IN_PARENT) else PE_PRESENT)
        yield Extent(fields[VADDR], fields.get(COUNT, fields.get(OLD_COUNT, 0)), flags)


def messages(path: str) -> list[dict[int, int]]:
    """Return the numbers of each message of such an image, its head first; raises OpError `images` when it is none."""
    with open(path, "rb") as file:
        data = file.read()
    at = 8
    found: list[dict[int, int]] = []
    try:
        while at < len(data):
            (size,) = struct.unpack_from("<I", data, at)
            end = at + 4 + size
            if end > len(data):
                raise ValueError("cut off")
            found.append(_fields(data, at + 4, end))
            if len(found) > 1 and VADDR not in found[-1]:
                raise ValueError("a run without an address")
            at = end
        if not found:
            raise ValueError("empty")
    except (ValueError, IndexError, struct.error) as error:
        raise OpError("images", f"{path} cannot be read: {error}") from error
    return found


def pack(fields: dict[int, int]) -> bytes:
    """Return a message of numbers."""
    return b"".join(_number(key << 3) + _number(value) for key, value in fields.items())


def _number(value: int) -> bytes:
    packed = bytearray()
    while value > 0x7F:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*packed, value])


def _fields(data: bytes, at: int, end: int) -> dict[int, int]:
    """Return the numbers of a message that has numbers only.

    One loop, for a final round has one for each page written.
    """
    found: dict[int, int] = {}
    key = -1
    while at < end:
        byte = data[at]
        value, shift, at = byte & 0x7F, 7, at + 1
        while byte & 0x80:
            if at == end:
                raise ValueError("a number is cut off")
            byte = data[at]
            value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if key >= 0:
            found[key >> 3], key = value, -1
        elif value & 7:
            raise ValueError(f"field {value >> 3} is no number")
        else:
            key = value
    if key >= 0:
        raise ValueError("a field without a number")
    return found
