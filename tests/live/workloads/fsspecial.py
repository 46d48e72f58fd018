"""Entries of a tree that are no plain files, made once: they must simply be there after a move."""

from __future__ import annotations

import os
import socket
import stat
from typing import Callable

from workloads.base import Checks

OLD_NS = 1_500_000_000_987_654_321
HOLE_BYTES = 1 << 20
_ACL_VERSION = b"\x02\x00\x00\x00"
# user::rw-, user:1:r--, group::r--, mask::r--, other::--- as the kernel writes them (tag, permissions, id)
_ACL = _ACL_VERSION + bytes.fromhex("01000600ffffffff020004000100000004000400ffffffff10000400ffffffff20000000ffffffff")
# Version 2, effective: cap_net_bind_service permitted
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


class Specials:
    """A fifo, a socket, links, a device, a sparse file, odd names, nested folders, an ACL and a file capability."""

    def __init__(self, folder: str) -> None:
        self.folder = os.fsencode(folder)
        self.skipped: list[str] = []
        os.makedirs(self.folder)
        self._make_names()
        self._make_kinds()
        self._try("device", lambda: os.mknod(self._path(b"device"), stat.S_IFCHR | 0o600, os.makedev(1, 3)))
        self._try("acl", lambda: os.setxattr(self._path(b"with-acl"), "system.posix_acl_access", _ACL))
        self._try("capability", lambda: os.setxattr(self._path(b"with-cap"), "security.capability", _CAPABILITY))
        for path in sorted(self._walk(), key=len, reverse=True):  # a folder's time last
            os.utime(path, ns=(OLD_NS, OLD_NS + len(path)), follow_symlinks=False)
        self.expected = self._snapshot()

    def check(self, checks: Checks) -> None:
        """Compare with the first look."""
        found = self._snapshot()
        for path, expected in self.expected.items():
            checks.equal(f"special {os.fsdecode(path)!r}", found.get(path), expected)
        extra = sorted(set(found) - set(self.expected))
        checks.expect(not extra, f"special entries that must not exist: {extra}")
        sparse = os.stat(self._path(b"sparse"))
        checks.expect(sparse.st_blocks * 512 < HOLE_BYTES // 2, "the sparse file lost its hole")
        checks.count("special entries", len(self.expected))

    def spoil(self) -> None:
        """Lose one."""
        os.unlink(self._path(b"fifo"))

    def _make_names(self) -> None:
        for name in (b"-rf", b"a b", b"new\nline", b"quote'\"`$(id)", b"\xff\xfe", "ümläut".encode(), b"n" * 255):
            with open(self._path(name), "wb") as stream:
                stream.write(name)
        os.makedirs(self._path(b"deep/er/est"), 0o700)
        os.mkdir(self._path(b"empty"))
        os.chmod(self._path(b"empty"), 0o1777)

    def _make_kinds(self) -> None:
        os.mkfifo(self._path(b"fifo"), 0o620)
        os.symlink(b"no/such/place", self._path(b"dangling"))
        os.symlink(b"/etc/passwd", self._path(b"absolute"))
        # A short name: a socket's address has room for 108 bytes only.
        here = os.open(self.folder, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(b"/proc/self/fd/%d/socket" % here)
        os.close(here)
        with open(self._path(b"sparse"), "wb") as stream:
            stream.write(b"begin")
            stream.truncate(HOLE_BYTES)
            stream.seek(0, os.SEEK_END)
            stream.write(b"end")
        for name in (b"with-acl", b"with-cap", b"deep/er/est/file"):
            with open(self._path(name), "wb") as stream:
                stream.write(name * 3)

    def _try(self, what: str, make: Callable[[], None]) -> None:
        try:
            make()
        except OSError:
            self.skipped.append(what)

    def _path(self, name: bytes) -> bytes:
        return os.path.join(self.folder, name)

    def _walk(self) -> list[bytes]:
        found = [self.folder]
        for folder, folders, files in os.walk(self.folder):
            found += [os.path.join(folder, name) for name in folders + files]
        return found

    def _snapshot(self) -> dict[bytes, tuple[object, ...]]:
        return {path: _look(path) for path in self._walk()}


def _look(path: bytes) -> tuple[object, ...]:
    found = os.lstat(path)
    data: object = None
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as stream:
            data = hash(stream.read())
    elif stat.S_ISLNK(found.st_mode):
        data = os.readlink(path)
    names = [] if stat.S_ISLNK(found.st_mode) else sorted(os.listxattr(path))
    xattrs = tuple((name, os.getxattr(path, name)) for name in names if name != "security.selinux")
    # The size of a folder differs between file systems.
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    owner = (found.st_uid, found.st_gid)
    return oct(found.st_mode), owner, size, found.st_rdev, found.st_mtime_ns, data, xattrs
