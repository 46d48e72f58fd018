"""Receive a tree into a directory, believing nothing that the stream says.

A damaged, cut or unruly stream ends in TreeError; no file stands half-written under its name then, but what came before
stays: the caller removes the directory, or sends everything again.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from reberth.node.tree import snapshot
from reberth.node.tree.compression import Unpacker
from reberth.node.tree.directories import Dirs
from reberth.node.tree.hash import ContentHash, HashLane
from reberth.node.tree.metadata import BLOCK, CHAR, DIR, FIFO, FILE, SOCKET, SYMLINK, Meta, from_header, number
from reberth.node.tree.wire import (
    CHUNK_BYTES,
    COPY,
    DATA,
    DIGEST_BYTES,
    END,
    END_UNSTABLE,
    HOLE,
    PACKED_ZLIB,
    PACKED_ZSTD,
    PLACE_BYTES,
    RAW_SIZE_BYTES,
    OnProgress,
    Reader,
    ShouldStop,
    TreeError,
    from_os_error,
    raw,
    text,
)
from reberth.node.tree.write import Place

_FLAT_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME_BYTES = 255
_LINK_BYTES = 4095
_SIZE_LIMIT = 1 << 63
_DEVICE_PART_LIMIT = 1 << 32


class Earlier(NamedTuple):
    """A file that came before, and its digest as both sides know it."""

    fd: int
    digest: bytes


@dataclass
class Manifest:
    """What came: regular files with size and digest, and the number of everything else."""

    files: dict[str, tuple[int, str]] = field(default_factory=dict, repr=False)
    full: bool = True
    bytes_received: int = 0  # file data
    directories: int = 0
    links: int = 0
    others: int = 0  # symbolic links, fifos, sockets, devices
    changed: int = 0  # metadata alone
    deleted: int = 0
    unstable: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # xattrs that cannot be kept here

    @property
    def files_received(self) -> int:
        """Number of regular files whose content came."""
        return len(self.files)


def digest_of(manifest: Manifest) -> str:
    """SHA-256 of the canonical list of files; equal to `treesend.digest_of_sent` of the same pass."""
    return snapshot.digest(manifest.files)


def recv_tree(
    root: str,
    in_fd: int,
    *,
    expect_empty: bool = True,
    flat: bool = False,
    earlier: Optional[Earlier] = None,
    max_bytes: Optional[int] = None,
    max_entries: Optional[int] = None,
    on_progress: OnProgress = None,
    should_stop: ShouldStop = None,
) -> Manifest:
    """Receive one stream from `in_fd` into `root`, made with mode 0700 if missing; reads not a byte too many.

    `expect_empty`: refuse a root that holds anything, and a delta. `flat`: only regular files with the names of image
    files, mode 0600, never over an existing one. `earlier`: what copies are taken from. `max_bytes` bounds
    the data written, `max_entries` the records.
    """
    reader = Reader(in_fd, should_stop)
    try:
        if not os.path.isdir(root):
            os.mkdir(root, 0o700)
        with Dirs(root) as dirs, HashLane() as lane:
            empty = not os.listdir(dirs.root_fd)
            if expect_empty and not empty:
                raise TreeError("the directory is not empty", root, errno.ENOTEMPTY)
            job = Receiver(reader, Place(dirs, empty), lane, flat)
            job.earlier = earlier
            job.max_bytes, job.max_entries, job.on_progress = max_bytes, max_entries, on_progress
            return job.run(expect_empty)
    except OSError as error:
        raise from_os_error(error, reader.name or root) from error


class Receiver:
    """One run of `recv_tree`."""

    max_bytes: Optional[int] = None
    max_entries: Optional[int] = None
    on_progress: OnProgress = None
    earlier: Optional[Earlier] = None

    def __init__(self, reader: Reader, place: Place, lane: HashLane, flat: bool) -> None:
        self.reader, self.place, self.lane, self.flat = reader, place, lane, flat
        self.out = Manifest(warnings=place.warnings)
        self.seen: set[bytes] = set()
        self.copied = 0
        self.unpack = Unpacker()

    def run(self, expect_empty: bool) -> Manifest:
        """Everything from the magic to the end record."""
        self.reader.magic()
        begin = self.reader.record()
        if begin["t"] != "begin" or type(begin.get("full")) is not bool:
            raise TreeError("the stream does not begin")
        self.out.full = begin["full"]
        if expect_empty and not self.out.full:
            raise TreeError("the stream holds changes only, the directory is empty")
        while True:
            header = self.reader.record()
            if header["t"] == "end":
                break
            self._one(header)
            if self.on_progress is not None:
                self.on_progress(self.out.bytes_received, self.reader.records)
        self._check_counts(header)
        self.reader.name = ""
        self.place.finish()
        return self.out

    def _check_counts(self, end: dict[str, Any]) -> None:
        found = {"records": self.reader.records - 1, "files": len(self.out.files), "bytes": self.out.bytes_received}
        for key, count in found.items():
            if end.get(key) != count:
                raise TreeError(f"{count} {key} came, {end.get(key)!r} were sent")

    def _one(self, header: dict[str, Any]) -> None:
        kind, path = header["t"], self._path(header, "n")
        self.reader.name = text(path)
        if self.max_entries is not None and self.reader.records - 1 > self.max_entries:
            raise TreeError(f"more than {self.max_entries} entries", text(path), errno.E2BIG)
        if kind == "x":
            # Deletions come first, so that nothing that was received goes away again.
            if self.seen or self.flat or not path:
                raise TreeError("deletion out of place", text(path))
            self.place.remove(path)
            self.out.deleted += 1
            return
        if path in self.seen:
            raise TreeError("it came twice", text(path))
        self.seen.add(path)
        if not path and kind != DIR:
            raise TreeError("the root is no directory")
        if self.flat:
            self._image(kind, path)
        else:
            self._entry(kind, path, header)

    def _image(self, kind: str, path: bytes) -> None:
        if kind == DIR and not path:
            return  # the directory is ours and stays private
        if kind != FILE or not _FLAT_NAME.fullmatch(path):
            raise TreeError("no image file", text(path))
        self._file(path, None)

    def _file(self, path: bytes, meta: Optional[Meta]) -> None:
        """A regular file; without metadata it is an image."""
        fd = self.place.start_file(path)
        try:
            row = self._content(path, fd)
            if meta is None:
                self.place.finish_image(path)
            else:
                self.place.finish_file(path, fd, meta)
        except BaseException:
            self.place.drop_file(path)
            raise
        finally:
            os.close(fd)
        self.out.files[text(path)] = row

    def _entry(self, kind: str, path: bytes, header: dict[str, Any]) -> None:
        if kind == "l":
            to = self._path(header, "to")
            if not to:
                raise TreeError("link to the root", text(path))
            self.place.link(path, to)
            self.out.links += 1
            return
        meta = from_header(header)
        if kind == FILE:
            self._file(path, meta)
        elif kind == DIR:
            self.place.directory(path, meta)
            self.out.directories += 1
        elif kind == "m":
            if header.get("k") not in (FILE, SYMLINK, FIFO, SOCKET, CHAR, BLOCK):
                raise TreeError("bad kind", text(path))
            self.place.metadata(path, header["k"], meta)
            self.out.changed += 1
        else:
            self._other(kind, path, header)

    def _other(self, kind: str, path: bytes, header: dict[str, Any]) -> None:
        meta = from_header(header)
        if kind == SYMLINK:
            to = header.get("to")
            target = raw(to) if isinstance(to, str) else b""
            if not 0 < len(target) <= _LINK_BYTES or b"\0" in target:
                raise TreeError("bad link target", text(path))
            self.place.symlink(path, target, meta)
        elif kind in (FIFO, SOCKET):
            self.place.special(path, kind, meta, 0)
        elif kind in (CHAR, BLOCK):
            parts = header.get("r")
            if not isinstance(parts, list) or len(parts) != 2:
                raise TreeError("bad device number", text(path))
            major, minor = (number({"r": part, "n": text(path)}, "r", 0, _DEVICE_PART_LIMIT) for part in parts)
            self.place.special(path, kind, meta, os.makedev(major, minor))
        else:
            raise TreeError(f"record of unknown type {kind!r}", text(path))
        self.out.others += 1

    def _path(self, header: dict[str, Any], key: str) -> bytes:
        """Return a relative path whose components are all plain names; b"" is the root."""
        name = header.get(key)
        if not isinstance(name, str):
            raise TreeError("record without a name", self.reader.name)
        path = raw(name)
        for part in path.split(b"/") if path else ():
            if part in (b"", b".", b"..") or len(part) > _NAME_BYTES or b"\0" in part:
                raise TreeError("a name that leads astray", name)
        return path

    def _content(self, path: bytes, fd: int) -> tuple[int, str]:
        """Receive the pieces of one file into `fd`; returns its size and digest, both checked."""
        content = ContentHash(self.lane, self.earlier.digest if self.earlier is not None else b"")
        while True:
            kind, length = self.reader.piece()
            if kind in (END, END_UNSTABLE):
                break
            if kind == DATA and 0 < length <= CHUNK_BYTES:
                self._data(fd, length, content)
            elif kind == COPY and 0 < length <= CHUNK_BYTES and self.earlier is not None:
                self._copy(fd, length, content, self.earlier.fd)
            elif kind in (PACKED_ZSTD, PACKED_ZLIB) and 0 < length < CHUNK_BYTES:
                self._packed(fd, kind, length, content)
            elif kind == HOLE and 0 < length < _SIZE_LIMIT - content.size:
                content.hole(length)
                self._hole(fd, length)
            else:
                raise TreeError("bad piece", text(path))
        self._cut(fd, content.size)
        digest = self.reader.exact(DIGEST_BYTES)
        if length != content.size or digest != content.digest():
            raise TreeError("damaged on the way", text(path), errno.EBADMSG)
        if kind == END_UNSTABLE:
            self.out.unstable.append(text(path))
        return length, digest.hex()

    def _data(self, fd: int, length: int, content: ContentHash) -> None:
        self._count(length)
        slot = self.lane.slot()
        view = slot.view[:length]
        self.reader.into(view)
        content.data(slot, length)
        self._append(fd, view)

    def _count(self, length: int) -> None:
        self.out.bytes_received += length
        if self.max_bytes is not None and self.out.bytes_received + self.copied > self.max_bytes:
            raise TreeError(f"more than {self.max_bytes} bytes", self.reader.name, errno.EFBIG)

    def _packed(self, fd: int, kind: int, length: int, content: ContentHash) -> None:
        """Data that was made smaller: what it becomes has its place before it is unpacked, and must fill that."""
        size = int.from_bytes(self.reader.exact(RAW_SIZE_BYTES), "big")
        if not length < size <= CHUNK_BYTES:
            raise TreeError("bad piece", self.reader.name)
        self._count(size)
        data = self.reader.exact(length)
        slot = self.lane.slot()
        view = slot.view[:size]
        try:
            self.unpack(kind, data, view)
        except TreeError as error:
            raise TreeError(str(error), self.reader.name, errno.EBADMSG) from error
        content.data(slot, size)
        self._append(fd, view)

    def _copy(self, fd: int, length: int, content: ContentHash, earlier_fd: int) -> None:
        """Copy what is here already; the digest covers that file's digest, so it tells whether the sender means it."""
        at = int.from_bytes(self.reader.exact(PLACE_BYTES), "big")
        self.copied += length
        if self.max_bytes is not None and self.out.bytes_received + self.copied > self.max_bytes:
            raise TreeError(f"more than {self.max_bytes} bytes", self.reader.name, errno.EFBIG)
        slot = self.lane.slot()
        try:
            view = slot.view[:length]
            if at >= _SIZE_LIMIT or os.preadv(earlier_fd, [view], at) != length:
                raise TreeError("a copy of what is not here", self.reader.name)
            content.copy(length, at)
            self._append(fd, view)
        finally:
            slot.busy.release()

    def _hole(self, fd: int, length: int) -> None:
        os.lseek(fd, length, os.SEEK_CUR)

    def _cut(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def _append(self, fd: int, view: memoryview) -> None:
        while view:
            view = view[os.write(fd, view) :]
        if self.on_progress is not None:
            self.on_progress(self.out.bytes_received, self.reader.records)
