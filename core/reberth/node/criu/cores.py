"""What CRIU's core images tell of the first process of a tree: its parent-death signal, which /proc does not show.

An image is two magics of four bytes each, then messages of protobuf, each behind its length in four bytes. Field
numbers from CRIU's images/pstree.proto and images/core.proto (seen in images of 4.2.1, 2026-12-01).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Union

from reberth.node.errors import OpError

PSTREE_PID, PSTREE_THREADS = 1, 5
CORE_THREAD, THREAD_PDEATH_SIG = 5, 8
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def parent_death_signal(directory: str) -> int:
    """Return the signal that a thread of the first process wants when its parent dies, 0 for none; OpError `images`."""
    path = os.path.join(directory, "pstree.img")
    if not os.path.exists(path):
        return 0
    try:
        first = list(fields(_first(path)))
        threads = [tid for key, value in first if key == PSTREE_THREADS for tid in _numbers(value)]
        pids = [value for key, value in first if key == PSTREE_PID]
        return next(filter(None, (_pdeath(directory, tid) for tid in threads or pids)), 0)
    except (ValueError, IndexError, struct.error, OSError) as error:
        raise OpError("images", f"{path} or its cores cannot be read: {error}") from error


def _pdeath(directory: str, tid: Union[int, bytes]) -> int:
    for key, value in fields(_first(os.path.join(directory, f"core-{tid!s}.img"))):
        if key == CORE_THREAD and isinstance(value, bytes):
            found = [number for key, number in fields(value) if key == THREAD_PDEATH_SIG]
            return int(found[-1]) if found and isinstance(found[-1], int) else 0
    return 0


def _first(path: str) -> bytes:
    """Return the first message of an image."""
    with open(path, "rb") as file:
        head = file.read(12)
        (size,) = struct.unpack_from("<I", head, 8)
        data = file.read(size)
    if len(data) < size:
        raise ValueError("cut off")
    return data


def _numbers(value: Union[int, bytes]) -> list[int]:
    """Return a repeated number, packed or not."""
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def fields(data: bytes) -> Iterator[tuple[int, Union[int, bytes]]]:
    """Yield each field of a message: its number, with a number or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, at = _varint(data, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"field {key >> 3} is of no known kind")
        if at + size > len(data):
            raise ValueError("a field is cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
