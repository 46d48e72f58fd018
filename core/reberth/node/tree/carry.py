"""The sender of files that are named one by one: what a process tree writes, wherever it lies.

The stream is that of wire.py. A name in it is the whole path on the target, without its first slash. Folders come
first, and the receiver makes those that it lacks. A file's record says which file it is here (`i`: boot id, device,
inode): a receiver that finds this very file at the path leaves it alone. A second pass under the freeze sends of each
file only the blocks whose hash has changed since the first pass.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from reberth.node.tree.aside import rel
from reberth.node.tree.hash import HashLane
from reberth.node.tree.metadata import DIR, FILE, Meta, read_xattrs, to_header
from reberth.node.tree.read import pump
from reberth.node.tree.wire import OnProgress, ShouldStop, Writer, check_stop, from_os_error, text

if TYPE_CHECKING:
    from reberth.node.tree.compression import Packer

BLOCK_BYTES = 64 << 10
_HASH_BYTES = 16
_GONE = (errno.ENOENT, errno.ESRCH, errno.EBADF)


class Item(NamedTuple):
    """One file to send: its path on the target, and a function that opens it here.

    `open` returns a descriptor, and whether its position may be moved (which finds holes). `identity` is boot id,
    device and inode.
    """

    path: str
    open: Callable[[], tuple[int, bool]]
    identity: tuple[str, int, int]


class Blocks:
    """The hashes of a file's whole blocks as they were sent; a matcher for read.pump."""

    def __init__(self, earlier: bytes = b"", known: Optional[dict[int, bytes]] = None) -> None:
        self.earlier = earlier
        self.sent: dict[int, bytes] = {}
        self._known = known or {}

    def split(self, offset: int, view: memoryview) -> Iterator[tuple[int, int, int]]:
        """Yield start, length and place of each part of `view`; the place is -1 for what the receiver lacks."""
        at = 0
        while at < len(view):
            length = min(BLOCK_BYTES - (offset + at) % BLOCK_BYTES, len(view) - at)
            place = -1
            if length == BLOCK_BYTES:
                number = (offset + at) // BLOCK_BYTES
                found = hashlib.blake2b(view[at : at + length], digest_size=_HASH_BYTES).digest()
                self.sent[number] = found
                if self.earlier and self._known.get(number) == found:
                    place = offset + at
            yield at, length, place
            at += length


class First(NamedTuple):
    """One file as it was sent in the first pass."""

    digest: bytes
    blocks: dict[int, bytes]
    identity: tuple[str, int, int]


@dataclass
class Sent:
    """The result of a pass: size and digest of each file by its name, and the bytes of data that went over."""

    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    bytes: int = 0


class Sender:
    """Sends the files of one run, once while the tree runs and once under the freeze."""

    def __init__(self) -> None:
        self.first: dict[str, First] = {}

    def send(
        self,
        items: Iterable[Item],
        folders: Iterable[str],
        out_fd: int,
        *,
        delta: bool,
        links: Iterable[tuple[str, str]] = (),
        packer: Optional[Packer] = None,
        on_progress: OnProgress = None,
        should_stop: ShouldStop = None,
    ) -> Sent:
        """Send `folders` (paths here and there), `items`, and `links` (a further name, and the item's path).

        Raise TreeError when one of them cannot be read.
        """
        writer, sent = Writer(out_fd, should_stop, packer), Sent()

        def tick(count: int) -> None:
            check_stop(should_stop)
            sent.bytes += count
            if on_progress is not None:
                on_progress(sent.bytes, writer.records)

        try:
            writer.record({"t": "begin", "full": not delta})
            for path in folders:
                self._folder(path, writer)
            with HashLane() as lane:
                for item in items:
                    self._file(item, delta, lane, writer, tick, sent)
            for name, to in links:
                writer.record({"t": "l", "n": _name(name), "to": _name(to)})
            writer.record({"t": "end", "records": writer.records, "files": len(sent.files), "bytes": sent.bytes})
            writer.flush()
        finally:
            writer.close()
        return sent

    def _folder(self, path: str, writer: Writer) -> None:
        try:
            found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode):
                return
            xattrs = read_xattrs(os.fsencode(path))
        except OSError as error:
            raise from_os_error(error, path) from error
        meta = Meta(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, xattrs, 0)
        writer.record({"t": DIR, "n": _name(path), **to_header(meta)})

    def _file(
        self, item: Item, delta: bool, lane: HashLane, writer: Writer, tick: Callable[[int], None], sent: Sent
    ) -> None:
        name = _name(item.path)
        earlier = self.first.get(item.path) if delta else None
        blocks = Blocks(earlier.digest, earlier.blocks) if earlier else Blocks()
        try:
            fd, movable = item.open()
        except OSError as error:
            if not delta and error.errno in _GONE:  # a running tree closes files all the time
                return
            raise from_os_error(error, item.path) from error
        try:
            try:
                found = os.fstat(fd)
                meta = Meta(
                    stat.S_IMODE(found.st_mode),
                    found.st_uid,
                    found.st_gid,
                    found.st_mtime_ns,
                    read_xattrs(fd),
                    found.st_atime_ns,
                )
                header: dict[str, Any] = {"t": FILE, "n": name, "e": earlier is not None, "i": list(item.identity)}
                writer.record({**header, **to_header(meta)})
                sparse = movable and found.st_blocks * 512 < found.st_size
                size, digest = pump(fd, found.st_size, sparse, lane, writer, tick, blocks)
            finally:
                os.close(fd)
        except OSError as error:
            raise from_os_error(error, item.path) from error
        writer.end_file(size, digest, False)
        if not delta:
            self.first[item.path] = First(digest, blocks.sent, item.identity)
        sent.files[name] = (size, digest.hex())


def _name(path: str) -> str:
    return text(rel(path))
