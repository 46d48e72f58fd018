"""How pages travel from dump to page server: CRIU's messages in a form of our own, each checked, the pages hashed.

CRIU's page server takes the end of a file for a good end, knows no checksum, and its message is 24 or 32 bytes long by
its version with nothing that tells which. So the two helpers talk for the two CRIUs: a message ends in a CRC-32, the
last one carries the counts and the SHA-256 of all pages, and what is not understood is an error and never a page.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from reberth.node.errors import OpError
from reberth.node.pages.relay import COMMAND_MASK, HEADERS, PS_IOV_ADD_F
from reberth.node.tree.hash import ContentHash, HashLane
from reberth.node.tree.wire import CHUNK_BYTES, Output, Reader

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Commands of criu/page-xfer.c; ours for the end, which carries what CRIU's does not.
PS_IOV_OPEN2, PS_IOV_PARENT, PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE = 4, 5, 0x1023, 0x1024
END = 0xFFFF
PE_PARENT, PE_PRESENT, FLAGS_SHIFT = 1, 4, 16
TASK, SHMEM = 1, 2  # the lowest byte of an owner: whose memory it is
MAX_PAGES = 1 << 36
_MESSAGE = struct.Struct(">IQQQ")
_CRC = struct.Struct(">I")
MESSAGE_BYTES = _MESSAGE.size + _CRC.size


class Message(NamedTuple):
    """One of CRIU's: what, how many pages, from which address, of whom (a task or a piece of shared memory)."""

    word: int
    pages: int
    address: int
    owner: int

    @property
    def command(self) -> int:
        """Return the command without its flags."""
        return self.word & COMMAND_MASK

    @property
    def body_bytes(self) -> int:
        """Return how many bytes of pages follow it."""
        present = self.command == PS_IOV_ADD_F and (self.word >> FLAGS_SHIFT) & PE_PRESENT
        return self.pages * PAGE_BYTES if present else 0

    def pack(self) -> bytes:
        """In our form."""
        data = _MESSAGE.pack(*self)
        return data + _CRC.pack(zlib.crc32(data))

    def for_criu(self, header_bytes: int) -> bytes:
        """In the form of a CRIU whose messages have so many bytes; OpError when its numbers do not fit."""
        try:
            return header_of(header_bytes).pack(*self)
        except struct.error as error:
            raise OpError("pages", f"a criu with short messages cannot be told of {self.pages} pages") from error


def header_of(header_bytes: int) -> struct.Struct:
    """CRIU's message of this length; OpError for a length that no CRIU has."""
    if header_bytes not in HEADERS:
        raise OpError("bad-argument", f"no criu has page messages of {header_bytes} bytes")
    return HEADERS[header_bytes]


def checked(message: Message) -> Message:
    """Return the same message if a dump may say it; OpError `pages` for every other."""
    known = message.command in (PS_IOV_OPEN2, PS_IOV_PARENT, PS_IOV_ADD_F, PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE)
    owned = message.owner & 0xFF in (TASK, SHMEM) or message.command in (PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE)
    placed = message.address % PAGE_BYTES == 0 and message.pages <= MAX_PAGES
    if not (known and owned and placed) or (message.command == PS_IOV_ADD_F and not message.pages):
        raise OpError("pages", f"not a message of a dump's: {message.word:#x} of {message.owner:#x}")
    return message


def unpack(data: bytes) -> Message:
    """Return a message in our form; OpError when it is damaged."""
    if _CRC.unpack_from(data, _MESSAGE.size)[0] != zlib.crc32(data[: _MESSAGE.size]):
        raise OpError("pages", "a page message was damaged on the way")
    return Message(*_MESSAGE.unpack_from(data))


class Counts:
    """What has passed: pages, holes (pages that the round before has), owners, and the digest of all pages."""

    def __init__(self, lane: HashLane) -> None:
        self.pages = self.holes = self.bytes = 0
        self.owners: set[int] = set()
        self._lane, self._hash = lane, ContentHash(lane)

    def note(self, message: Message) -> None:
        """Count one message."""
        if message.command == PS_IOV_OPEN2:
            self.owners.add(message.owner)
        elif message.body_bytes:
            self.pages += message.pages
        elif (message.word >> FLAGS_SHIFT) & PE_PARENT:
            self.holes += message.pages

    def carry(self, reader: Reader, out: Output, length: int, moved: Callable[[int], None]) -> None:
        """Carry so many bytes of pages over, hashed on their way."""
        while length:
            count = min(length, CHUNK_BYTES)
            slot = self._lane.slot()
            try:
                reader.into(slot.view[:count])
            except BaseException:
                slot.busy.release()
                raise
            self._hash.data(slot, count)
            out.write(slot.view[:count])
            length -= count
            self.bytes += count
            moved(count)

    def digest(self) -> bytes:
        """SHA-256 of all pages in their order."""
        return self._hash.digest()

    def end(self) -> bytes:
        """Return the last message and the digest, as the source sends them."""
        return Message(END, self.pages, self.holes, len(self.owners)).pack() + self.digest()

    def check(self, message: Message, digest: bytes) -> None:
        """Compare with what the source says it has sent; OpError `pages`."""
        said, found = (message.pages, message.address, message.owner), (self.pages, self.holes, len(self.owners))
        if said != found:
            raise OpError("pages", f"{found[0]} pages and {found[1]} holes came, {said[0]} and {said[1]} were sent")
        if digest != self.digest():
            raise OpError("pages", "the pages were damaged on the way")

    def facts(self) -> dict[str, int]:
        """For the controller."""
        return {"pages": self.pages, "holes": self.holes, "bytes": self.bytes}
