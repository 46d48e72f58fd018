"""The content of one regular file, read once: data and holes to the stream and to the digest."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Optional, Protocol

from reberth.node.tree.hash import ContentHash, HashLane
from reberth.node.tree.wire import CHUNK_BYTES, Writer

Tick = Callable[[int], None]


class Matcher(Protocol):
    """Tells which parts of a file the receiver has already in an earlier one, whose digest is `earlier`."""

    earlier: bytes

    def split(self, offset: int, view: memoryview) -> Iterator[tuple[int, int, int]]:
        """Yield start, length and place in the earlier file of each part of `view`; -1: it must be sent."""


def _extents(fd: int, size: int, sparse: bool) -> Iterator[tuple[int, int, bool]]:
    """Offset, length and whether it is a hole, in order up to `size`; a file cut meanwhile ends in a hole."""
    at = 0
    while sparse and at < size:
        try:
            data = min(os.lseek(fd, at, os.SEEK_DATA), size)
        except OSError as error:
            if error.errno != errno.ENXIO:
                break  # a file system without holes
            data = size
        if data > at:
            yield at, data - at, True
        if data >= size:
            return
        try:
            hole = min(os.lseek(fd, data, os.SEEK_HOLE), size)
        except OSError:
            hole = size
        at = hole if hole > data else size
        yield data, at - data, False
    if at < size:
        yield at, size - at, False


def pump(
    fd: int,
    size: int,
    sparse: bool,
    lane: HashLane,
    writer: Optional[Writer],
    tick: Tick,
    matcher: Optional[Matcher] = None,
) -> tuple[int, bytes]:
    """Read up to `size` bytes, hash them and send them if there is a writer; returns the length read and the digest.

    With a `matcher` only what the receiver lacks is sent, and ticks count that alone.

    The bound matters: a log that grows faster than the pipe would never end.
    """
    content = ContentHash(lane, matcher.earlier if matcher is not None else b"")
    for offset, length, is_hole in _extents(fd, size, sparse):
        if is_hole:
            content.hole(length)
            if writer is not None:
                writer.hole(length)
            tick(0)
        elif not _data(fd, offset, length, content, lane, writer, tick, matcher):
            break
    return content.size, content.digest()


def _data(
    fd: int,
    offset: int,
    length: int,
    content: ContentHash,
    lane: HashLane,
    writer: Optional[Writer],
    tick: Tick,
    matcher: Optional[Matcher],
) -> bool:
    end = offset + length
    while offset < end:
        slot = lane.slot()
        count = os.preadv(fd, [slot.view[: min(CHUNK_BYTES, end - offset)]], offset)
        if matcher is not None and writer is not None:
            tick(_needed(matcher, offset, slot.view[:count], content, writer))
            slot.busy.release()
        else:
            content.data(slot, count)
            if writer is not None and count:
                writer.data(slot.view[:count])
            tick(count)
        if count == 0:
            return False
        offset += count
    return True


def _needed(matcher: Matcher, offset: int, view: memoryview, content: ContentHash, writer: Writer) -> int:
    """Send what the receiver lacks and name the rest; returns the bytes sent."""
    sent = 0
    for start, length, at in matcher.split(offset, view):
        if at < 0:
            piece = view[start : start + length]
            content.piece(piece)
            writer.data(piece)
            sent += length
        else:
            content.copy(length, at)
            writer.copy(length, at)
    return sent
