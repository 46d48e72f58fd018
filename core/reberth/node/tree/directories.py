"""Directories below a root as descriptors, opened component by component and never through a symbolic link."""

from __future__ import annotations

import os
from collections import OrderedDict
from types import TracebackType

_OPEN_LIMIT = 64
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def split(rel: bytes) -> tuple[bytes, bytes]:
    """Directory and last component of a relative path; the directory of a top entry is b""."""
    parent, _, name = rel.rpartition(b"/")
    return parent, name


def fd_path(fd: int, name: bytes = b"") -> bytes:
    """Return a path that names the object behind `fd`, or `name` in it, for the calls that know no descriptors."""
    return b"/proc/self/fd/%d/%s" % (fd, name) if name else b"/proc/self/fd/%d" % fd


class Dirs:
    """A small cache of open directories; the descriptor that `fd` gives is good until the next call of `fd`."""

    def __init__(self, root: str) -> None:
        # The caller's path to the root may lead through links; inside it none is followed.
        self.root_fd = os.open(os.path.realpath(root), DIRECTORY_FLAGS)
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def __enter__(self) -> Dirs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.forget(b"")
        os.close(self.root_fd)

    def fd(self, rel: bytes) -> int:
        """Return the descriptor of directory `rel`.

        Raise OSError (ENOTDIR, ELOOP, ENOENT) if a component is no directory.
        """
        at, missing = rel, []
        while at and at not in self._open:
            at, name = split(at)
            missing.append(name)
        fd = self.root_fd
        if at:
            self._open.move_to_end(at)
            fd = self._open[at]
        for name in reversed(missing):
            fd = os.open(name, DIRECTORY_FLAGS, dir_fd=fd)
            at = at + b"/" + name if at else name
            self._open[at] = fd
            if len(self._open) > _OPEN_LIMIT:
                os.close(self._open.popitem(last=False)[1])
        return fd

    def forget(self, rel: bytes) -> None:
        """Close what is open of `rel` and below, as these names are about to mean something else."""
        for path in [path for path in self._open if not rel or path == rel or path.startswith(rel + b"/")]:
            os.close(self._open.pop(path))
