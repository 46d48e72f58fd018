"""The receiver of files that carry.py sends: each is staged beside its path, and gets its name when all are there.

Staging in the same folder makes the last step a rename(2), on whatever filesystem the path lies. No folder on the way
may be a symbolic link: root writes there, and the folder may belong to somebody else.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from reberth.node.tree.aside import set_aside
from reberth.node.tree.directories import Dirs, split
from reberth.node.tree.hash import ContentHash, HashLane
from reberth.node.tree.metadata import DIR, FILE, Meta, apply, from_header
from reberth.node.tree.receive import Earlier, Manifest, Receiver
from reberth.node.tree.wire import (
    CHUNK_BYTES,
    PLACE_BYTES,
    OnProgress,
    Reader,
    ShouldStop,
    TreeError,
    from_os_error,
    text,
)
from reberth.node.tree.write import Place

_PUNCH = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE (linux/falloc.h)
_ZEROS = bytes(CHUNK_BYTES)
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AGAIN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_ASTRAY = (errno.ELOOP, errno.ENOTDIR)


class Staged(NamedTuple):
    """A file that waits beside its path: its name there, its digest, which file it is, and when it changed last."""

    name: bytes
    digest: bytes
    identity: tuple[int, int]
    ctime_ns: int


class Arrivals:
    """The carried files of one run on the target; everything that must be undone is journaled by `push_undo` first."""

    def __init__(self, run_id: str, boot_id: str, push_undo: Callable[..., None]) -> None:
        self.staged: dict[bytes, Staged] = {}
        self.same: dict[bytes, bytes] = {}  # files that both nodes see as one, with their digest
        self.boot_id = boot_id
        self._run_id, self._push_undo, self._count = run_id, push_undo, 0

    def receive(self, in_fd: int, delta: bool, on_progress: OnProgress, should_stop: ShouldStop) -> Manifest:
        """Receive one pass; after the second (`delta`) every file has its name. Raise TreeError."""
        reader = Reader(in_fd, should_stop)
        try:
            with Dirs("/") as dirs, HashLane() as lane:
                job = _FilesReceiver(reader, dirs, lane, self)
                job.on_progress = on_progress
                manifest = job.run(expect_empty=not delta)
            if delta:
                self._name(job.seen)
                for path, to in job.links:
                    self._link(path, to)
            return manifest
        except OSError as error:
            if error.errno in _ASTRAY:
                message = "its path leads through a symbolic link, or through a file"
                raise TreeError(message, reader.name, error.errno) from error
            raise from_os_error(error, reader.name) from error

    def new_name(self, folder: bytes) -> bytes:
        """Journal and return a name in this folder for a file to be staged."""
        name = f".reberth-{self._run_id}-{self._count}"
        self._count += 1
        self._push_undo("abort", "files_drop", path=name, names=["/" + text(folder) + "/" + name])
        return name.encode()

    def new_folder(self, path: bytes) -> None:
        """Journal that this folder is about to be made."""
        self._push_undo("abort", "folder_remove", path="/" + text(path))

    def _link(self, path: bytes, to: bytes) -> None:
        """Give a file that has its name by now a further one."""
        self._push_undo("abort", "files_drop", path="/" + text(path), names=["/" + text(path)])
        with Dirs("/") as dirs, contextlib.suppress(FileExistsError):
            here, there = (os.dup(dirs.fd(split(name)[0])) for name in (to, path))
            try:
                os.link(split(to)[1], split(path)[1], src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
            finally:
                os.close(here)
                os.close(there)

    def _name(self, seen: set[bytes]) -> None:
        """Give the files of the second pass their names, with what stands there kept aside."""
        rows, kept = [], []
        with Dirs("/") as dirs:
            for path in sorted(seen & self.staged.keys()):
                parent, name = split(path)
                one = self.staged[path]
                aside = text(one.name) + ".old" if _kind(dirs.fd(parent), name) else ""
                row = {"path": "/" + text(path), "kept": aside, "staged": text(one.name)}
                rows.append({**row, "dev": one.identity[0], "ino": one.identity[1]})
                if aside:
                    kept.append(f"/{text(parent)}/{aside}")
        if rows:
            self._push_undo("abort", "files_back", path=f"{len(rows)} carried files", files=rows)
            if kept:
                self._push_undo("commit", "files_drop", path=f"{len(kept)} old files", names=kept)
            set_aside(rows)
        left = [f"/{text(split(path)[0])}/{text(self.staged[path].name)}" for path in self.staged.keys() - seen]
        if left:
            self._push_undo("commit", "files_drop", path=f"{len(left)} files that are no longer written", names=left)


def _kind(folder_fd: int, name: bytes) -> int:
    """Return the type bits of what has this name, 0 for nothing."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0


class _FilesReceiver(Receiver):
    """One pass. A descriptor below 0 is of a file that is here already: its content is checked and not written."""

    def __init__(self, reader: Reader, dirs: Dirs, lane: HashLane, arrivals: Arrivals) -> None:
        super().__init__(reader, Place(dirs, False), lane, False)
        self.dirs, self.arrivals = dirs, arrivals
        self.links: list[tuple[bytes, bytes]] = []

    def _one(self, header: dict[str, Any]) -> None:
        kind, path = header["t"], self._path(header, "n")
        self.reader.name = text(path)
        if path in self.seen or not path:
            raise TreeError("it came twice", text(path))
        if kind == "l":
            to = self._path(header, "to")
            if to not in self.seen:
                raise TreeError("a name of a file that did not come", text(path))
            self.links.append((path, to))
            return
        meta = from_header(header)
        if kind == DIR:
            self._folder(path, meta)
            return
        if kind != FILE:
            raise TreeError("neither a file nor a folder", text(path))
        self.seen.add(path)
        self._carried(path, meta, header)

    def _folder(self, path: bytes, meta: Meta) -> None:
        """Make a folder that is missing; one that is there stays as it is."""
        parent, name = split(path)
        folder = self.dirs.fd(parent)
        if _kind(folder, name):
            return
        self.arrivals.new_folder(path)
        os.mkdir(name, 0o700, dir_fd=folder)
        apply(self.dirs.fd(path), DIR, meta, True)

    def _carried(self, path: bytes, meta: Meta, header: dict[str, Any]) -> None:
        parent, name = split(path)
        folder = self.dirs.fd(parent)
        there = _kind(folder, name)
        if there and there != stat.S_IFREG:
            raise TreeError("what has its name here is no regular file", text(path), errno.EEXIST)
        old = self.arrivals.staged.get(path) if header.get("e") is True else None
        if header.get("e") is True and old is None and path not in self.arrivals.same:
            raise TreeError("changes of a file that never came", text(path))
        if there and self._is_same(folder, name, header.get("i")):
            self._measure(path, header)
            return
        fd = self._open(folder, old) if old else -1
        staged = old.name if old else self.arrivals.new_name(parent)
        if fd < 0:
            fd = os.open(staged, _NEW, 0o600, dir_fd=self.dirs.fd(parent))
        try:
            self.earlier = Earlier(fd, old.digest) if old else None
            row = self._content(path, fd)
            for lost in apply(fd, FILE, meta, old is None):
                self.out.warnings.append(f"{text(path)!r}: {lost} cannot be kept here")
            os.fsync(fd)
            found = os.fstat(fd)
        finally:
            self.earlier = None
            os.close(fd)
        self.out.files[text(path)] = row
        identity = (found.st_dev, found.st_ino)
        self.arrivals.staged[path] = Staged(staged, bytes.fromhex(row[1]), identity, found.st_ctime_ns)

    def _is_same(self, folder: int, name: bytes, identity: Any) -> bool:
        """Tell whether the file here is the sender's own: both nodes see one filesystem of one kernel."""
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        return bool(identity == [self.arrivals.boot_id, found.st_dev, found.st_ino])

    def _measure(self, path: bytes, header: dict[str, Any]) -> None:
        """Take the content of a file that is here already off the stream."""
        known = self.arrivals.same.get(path, b"") if header.get("e") is True else b""
        self.earlier = Earlier(-1, known)
        try:
            self.out.files[text(path)] = row = self._content(path, -1)
        finally:
            self.earlier = None
        self.arrivals.same[path] = bytes.fromhex(row[1])

    def _open(self, folder: int, old: Staged) -> int:
        """Open a staged file again; raise TreeError when it is another file, or was changed, since."""
        fd = os.open(old.name, _AGAIN, dir_fd=folder)
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != old.identity or found.st_ctime_ns != old.ctime_ns:
            os.close(fd)
            raise TreeError("somebody has changed the file that was staged", text(old.name), errno.EBUSY)
        return fd

    def _append(self, fd: int, view: memoryview) -> None:
        if fd >= 0:
            super()._append(fd, view)

    def _cut(self, fd: int, size: int) -> None:
        if fd >= 0:
            os.ftruncate(fd, size)

    def _copy(self, fd: int, length: int, content: ContentHash, earlier_fd: int) -> None:
        """Leave a block as it is: the staged file is changed in its place."""
        at = int.from_bytes(self.reader.exact(PLACE_BYTES), "big")
        if at != content.size or (fd >= 0 and os.fstat(fd).st_size < at + length):
            raise TreeError("a copy of what is not here", self.reader.name)
        self.copied += length
        content.copy(length, at)
        if fd >= 0:
            os.lseek(fd, length, os.SEEK_CUR)

    def _hole(self, fd: int, length: int) -> None:
        """Make a hole, also where the first pass brought data."""
        if fd < 0:
            return
        at = os.lseek(fd, 0, os.SEEK_CUR)
        inside = min(length, max(0, os.fstat(fd).st_size - at))
        if inside and not _punch(fd, at, inside):
            for done in range(0, inside, CHUNK_BYTES):
                os.pwrite(fd, _ZEROS[: min(CHUNK_BYTES, inside - done)], at + done)
        os.lseek(fd, length, os.SEEK_CUR)


def _punch(fd: int, at: int, length: int) -> bool:
    """Give a part of a file back to its filesystem; return False where that knows no holes."""
    libc = ctypes.CDLL(None, use_errno=True)
    done: int = libc.fallocate(fd, _PUNCH, ctypes.c_int64(at), ctypes.c_int64(length))
    return done == 0
