"""Puts entries into a tree on behalf of a sender that may be hostile: nothing is ever followed out of the root."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from reberth.node.tree.directories import Dirs, fd_path, split
from reberth.node.tree.metadata import DIR, FILE, SYMLINK, Meta, apply
from reberth.node.tree.walk import KINDS
from reberth.node.tree.wire import TreeError, text

_WARNINGS = 100
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Place:
    """The receiver's hands. `fresh`: the root was empty, so nothing needs to be replaced."""

    def __init__(self, dirs: Dirs, fresh: bool) -> None:
        self.dirs = dirs
        self.fresh = fresh
        self.warnings: list[str] = []
        # Random, so that no name of the stream hits it; all that a kill leaves behind is under this name.
        self._temporary = b".reberth-" + os.urandom(12).hex().encode()
        self._directories: dict[bytes, Meta] = {}
        self._touched: dict[bytes, tuple[int, int]] = {}

    def start_file(self, path: bytes) -> int:
        """Return a new empty file under the temporary name beside `path`."""
        return os.open(self._temporary, _NEW_FILE, 0o600, dir_fd=self._parent(path))

    def finish_file(self, path: bytes, fd: int, meta: Meta) -> None:
        """Give the temporary file its metadata and its name."""
        self._apply(path, fd, FILE, meta)
        self._rename(path)

    def finish_image(self, path: bytes) -> None:
        """Give the temporary file its name; EEXIST if it is taken."""
        fd = self.dirs.fd(b"")
        os.link(self._temporary, path, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
        os.unlink(self._temporary, dir_fd=fd)

    def drop_file(self, path: bytes) -> None:
        """Remove what is left under the temporary name."""
        with suppress(OSError):
            os.unlink(self._temporary, dir_fd=self.dirs.fd(split(path)[0]))

    def directory(self, path: bytes, meta: Meta) -> None:
        """Make a directory, private until the end, or keep the one that is there; its metadata comes last."""
        self._directories[path] = meta
        if not path:
            return
        parent, name = self._parent(path), split(path)[1]
        kind = self._kind(path)
        if kind == DIR:
            return
        if kind:
            os.unlink(name, dir_fd=parent)
        os.mkdir(name, 0o700, dir_fd=parent)

    def symlink(self, path: bytes, target: bytes, meta: Meta) -> None:
        """Make a symbolic link."""
        os.symlink(target, self._temporary, dir_fd=self._parent(path))
        self._finish(path, SYMLINK, meta)

    def special(self, path: bytes, kind: str, meta: Meta, device: int) -> None:
        """Make a fifo, socket or device node."""
        form = next(form for form, letter in KINDS.items() if letter == kind)
        os.mknod(self._temporary, form | 0o600, device, dir_fd=self._parent(path))
        self._finish(path, kind, meta)

    def link(self, path: bytes, to: bytes) -> None:
        """Make `path` a hard link to the entry `to`, which must be there and no directory."""
        there = os.dup(self.dirs.fd(split(to)[0]))  # the cache may close it while it opens the other one
        try:
            here = self._parent(path)
            os.link(split(to)[1], self._temporary, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(there)
        self._rename(path)

    def metadata(self, path: bytes, kind: str, meta: Meta) -> None:
        """Change the metadata of an entry; TreeError if it is of another kind than the sender believes."""
        seen = os.open(split(path)[1], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.dirs.fd(split(path)[0]))
        try:
            if KINDS.get(stat.S_IFMT(os.fstat(seen).st_mode)) != kind:
                raise TreeError("it is of another kind here", text(path))
            self._apply(path, fd_path(seen), kind, meta)
        finally:
            os.close(seen)

    def remove(self, path: bytes) -> None:
        """Remove an entry with all below it, without recursion (depth is the sender's choice) and on one device."""
        parent, name = self._parent(path), split(path)[1]
        if self._kind(path) != DIR:
            os.unlink(name, dir_fd=parent)
            return
        todo = [path]
        while todo:
            inner = self._empty(todo[-1])
            todo.extend(inner)
            if not inner:
                done = todo.pop()
                self.dirs.forget(done)
                os.rmdir(split(done)[1], dir_fd=self.dirs.fd(split(done)[0]))

    def _empty(self, path: bytes) -> list[bytes]:
        """Unlink the files of a directory; returns its directories."""
        fd = self.dirs.fd(path)
        if os.fstat(fd).st_dev != os.fstat(self.dirs.root_fd).st_dev:
            raise TreeError("something is mounted here", text(path), errno.EBUSY)
        inner = []
        with os.scandir(fd) as items:
            found = [(os.fsencode(item.name), item.is_dir(follow_symlinks=False)) for item in items]
        for name, is_dir in found:
            if is_dir:
                inner.append(path + b"/" + name)
            else:
                os.unlink(name, dir_fd=fd)
        return inner

    def finish(self) -> None:
        """Give directories their metadata, the deepest first, as the work in them changed their times."""
        for path in sorted(self._directories.keys() | self._touched.keys(), reverse=True):
            meta = self._directories.get(path)
            if meta is not None:
                self._apply(path, self.dirs.fd(path), DIR, meta)
                continue
            with suppress(FileNotFoundError):  # removed itself later
                os.utime(self.dirs.fd(path), ns=self._touched[path])

    def _parent(self, path: bytes) -> int:
        """Return the descriptor of the directory that is about to change; its times come back in the end."""
        parent = split(path)[0]
        fd = self.dirs.fd(parent)
        if parent not in self._touched:
            st = os.fstat(fd)
            self._touched[parent] = (st.st_atime_ns, st.st_mtime_ns)
        return fd

    def _kind(self, path: bytes) -> str:
        """Return the kind of what has this name, "" for nothing."""
        if self.fresh:
            return ""
        try:
            st = os.stat(split(path)[1], dir_fd=self.dirs.fd(split(path)[0]), follow_symlinks=False)
        except FileNotFoundError:
            return ""
        return KINDS[stat.S_IFMT(st.st_mode)]

    def _apply(self, path: bytes, target: int | bytes, kind: str, meta: Meta) -> None:
        for lost in apply(target, kind, meta, self.fresh):
            if len(self.warnings) < _WARNINGS:
                self.warnings.append(f"{text(path)!r}: {lost} cannot be kept here")

    def _finish(self, path: bytes, kind: str, meta: Meta) -> None:
        parent = self.dirs.fd(split(path)[0])
        try:
            seen = os.open(self._temporary, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                self._apply(path, fd_path(seen), kind, meta)
            finally:
                os.close(seen)
        except BaseException:
            self.drop_file(path)
            raise
        self._rename(path)

    def _rename(self, path: bytes) -> None:
        """Move the temporary entry to its name, in place of whatever has it."""
        if self._kind(path) == DIR:
            self.remove(path)
        parent = self.dirs.fd(split(path)[0])
        os.rename(self._temporary, split(path)[1], src_dir_fd=parent, dst_dir_fd=parent)
        if not self.fresh:  # rename(2) leaves both names if they are links to one inode
            with suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=parent)
