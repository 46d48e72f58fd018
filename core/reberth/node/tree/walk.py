"""One look over a tree that may change meanwhile: what is there, as it was when it was looked at."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple, Optional

from reberth.node.tree.directories import Dirs, fd_path, split
from reberth.node.tree.metadata import BLOCK, CHAR, DIR, FIFO, FILE, SOCKET, SYMLINK, Meta, read_xattrs
from reberth.node.tree.mounts import mount_id
from reberth.node.tree.wire import ShouldStop, check_stop, text

# What a name answers that is gone, or is another kind of thing since it was looked at.
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO, errno.EINVAL})
KINDS = {
    stat.S_IFDIR: DIR,
    stat.S_IFREG: FILE,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: SOCKET,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK,
}
_TICK_NS = 20_000_000  # a write this long before the look may share its time stamp with one after it (jiffies, skew)
_COARSE_NS = 2_000_000_000  # the same where times are whole seconds (ext4 with small inodes)
_SECOND_NS = 1_000_000_000

Inode = tuple[int, int]


class Entry:
    """One name. `place` numbers the target's inode: names with the same number are hard links there."""

    __slots__ = ("blocks", "content", "inode", "kind", "links", "meta", "place", "rdev", "size", "state", "unsure")

    def __init__(self, st: os.stat_result, since_ns: int) -> None:
        self.meta = Meta(stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, (), st.st_atime_ns)
        self.kind = KINDS[stat.S_IFMT(st.st_mode)]
        self.inode: Inode = (st.st_dev, st.st_ino)
        self.links = st.st_nlink
        self.rdev = st.st_rdev
        self.size = st.st_size
        self.blocks = st.st_blocks
        self.state = state_of(st)
        self.unsure = is_unsure(st, since_ns)  # equal times later prove nothing
        self.content: Optional[bytes] = None  # digest of a file, target of a symbolic link
        self.place = -1

    def is_still(self, st: os.stat_result) -> bool:
        """Tell whether the name can only be what it was when this entry was made."""
        return not self.unsure and self.state == state_of(st)

    def same_meta(self, other: Entry) -> bool:
        """Tell whether owner, mode, mtime and xattrs agree; the access time may differ."""
        return self.meta[:-1] == other.meta[:-1]


def state_of(st: os.stat_result) -> tuple[int, ...]:
    """Return what changes with nearly every change."""
    return (st.st_ino, st.st_ctime_ns, st.st_mtime_ns, st.st_size, st.st_mode, st.st_dev)


def is_unsure(st: os.stat_result, since_ns: int) -> bool:
    """Tell whether a change after the look could leave the times as they are.

    A tick's distance from the pass's start is what counts, not from this file's own read: a page dirtied through a
    mapping since then may be dirtied again without a new time, and the mapping be gone at the end.
    """
    coarse = not (st.st_mtime_ns % _SECOND_NS or st.st_ctime_ns % _SECOND_NS)
    return max(st.st_mtime_ns, st.st_ctime_ns) >= since_ns - (_COARSE_NS if coarse else _TICK_NS)


class Scan(NamedTuple):
    """What `scan` saw: entries by relative path (b"" is the root), and the mount points it left out."""

    entries: dict[bytes, Entry]
    skipped: list[str]


def scan(
    dirs: Dirs,
    since_ns: int,
    points: frozenset[bytes] = frozenset(),
    cross: bool = False,
    known: Optional[dict[bytes, Entry]] = None,
    should_stop: ShouldStop = None,
) -> Scan:
    """Look at every name below the root; what vanishes meanwhile is left out.

    A name that is still what `known` says answers that very entry, which makes a second look cheap.
    """
    known = known or {}
    root = os.fstat(dirs.root_fd)
    mount = mount_id(dirs.root_fd)
    entries = {b"": Entry(root, since_ns)}
    skipped: list[str] = []
    todo = [b""]
    while todo:
        check_stop(should_stop)
        parent = todo.pop()
        here_dev = entries[parent].inode[0]
        for name, st in _listing(dirs, parent):
            path = parent + b"/" + name if parent else name
            is_dir = stat.S_ISDIR(st.st_mode)
            if not cross and (path in points or (is_dir and st.st_dev != here_dev and _other(dirs, path, mount))):
                skipped.append(text(path))
                if not is_dir:
                    continue
            elif is_dir:
                todo.append(path)
            old = known.get(path)
            entries[path] = old if old is not None and old.is_still(st) else Entry(st, since_ns)
    return Scan(entries, skipped)


def _listing(dirs: Dirs, parent: bytes) -> list[tuple[bytes, os.stat_result]]:
    found: list[tuple[bytes, os.stat_result]] = []
    try:
        with os.scandir(dirs.fd(parent)) as items:
            for item in items:
                try:
                    found.append((os.fsencode(item.name), item.stat(follow_symlinks=False)))
                except OSError as error:
                    if error.errno not in GONE:
                        raise
    except OSError as error:
        if error.errno not in GONE:
            raise
    return found


def _other(dirs: Dirs, path: bytes, mount: int) -> bool:
    """Tell whether a directory on another device is another mount (a btrfs subvolume is not)."""
    try:
        return mount_id(dirs.fd(path)) != mount
    except OSError as error:
        if error.errno not in GONE:
            raise
        return False


def open_file(dirs: Dirs, path: bytes) -> int:
    """Return a descriptor to read a regular file; -1 when the name is gone or is no regular file any more.

    A device that took its place would be opened with effect: so first O_PATH, then the same object to read.
    """
    parent, name = split(path)
    try:
        seen = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirs.fd(parent))
    except OSError as error:
        if error.errno in GONE:
            return -1
        raise
    try:
        if not stat.S_ISREG(os.fstat(seen).st_mode):
            return -1
        flags = os.O_RDONLY | os.O_CLOEXEC
        try:
            return os.open(fd_path(seen), flags | os.O_NOATIME)
        except PermissionError:
            return os.open(fd_path(seen), flags)
    finally:
        os.close(seen)


def read_special(dirs: Dirs, path: bytes, entry: Entry) -> bool:
    """Complete an entry that is no regular file with xattrs and link target; False when it is gone."""
    parent, name = split(path)
    try:
        fd = dirs.fd(path if entry.kind == DIR else parent)
        if entry.kind == SYMLINK:
            entry.content = os.readlink(name, dir_fd=fd)
        xattrs = read_xattrs(fd if entry.kind == DIR else fd_path(fd, name))
    except OSError as error:
        if error.errno in GONE:
            return False
        raise
    entry.meta = entry.meta._replace(xattrs=xattrs)
    return True
