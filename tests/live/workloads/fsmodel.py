"""What a tree of files must look like, kept in memory, and the comparison with the disk."""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass, field
from functools import partial
from typing import Optional

from workloads.base import Checks, first_difference

# Device and inode numbers are other ones after a move, and the freeze may fall between two looks that are compared.
# A loss is there at each try.
TRIES = 3


@dataclass
class Inode:
    """One file as it must be: bytes, owner, mode, time, extended attributes, and how this process holds it open."""

    data: bytearray
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    number: int = -1
    mapped: Optional[mmap.mmap] = None

    def release(self) -> None:
        """Close what this process holds of it."""
        if self.mapped is not None:
            self.mapped.close()
        if self.number >= 0:
            os.close(self.number)
        self.mapped, self.number = None, -1


class Model:
    """Names and inodes of one folder; two names with the same Inode object are hard links."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.names: dict[str, Inode] = {}
        self.orphans: list[Inode] = []

    def path(self, name: str) -> str:
        """Where a name is on disk."""
        return os.path.join(self.folder, name)

    def links(self, inode: Inode) -> int:
        """How many names an inode must have."""
        return sum(1 for other in self.names.values() if other is inode)

    def learn(self, name: str) -> None:
        """Take over mode, owner and time from the disk, right after an operation that sets them."""
        found = os.lstat(self.path(name))
        inode = self.names[name]
        inode.mode, inode.uid, inode.gid = stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid
        inode.mtime_ns = found.st_mtime_ns

    def check_name(self, name: str, checks: Checks) -> None:
        """Compare one name's file with the model: everything but the link groups."""
        inode, path = self.names[name], self.path(name)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            checks.problems.append(f"{name}: missing")
            return
        if not checks.expect(stat.S_ISREG(found.st_mode), f"{name}: not a regular file"):
            return
        checks.equal(f"{name}: mode", oct(stat.S_IMODE(found.st_mode)), oct(inode.mode))
        checks.equal(f"{name}: owner", (found.st_uid, found.st_gid), (inode.uid, inode.gid))
        checks.equal(f"{name}: mtime_ns", found.st_mtime_ns, inode.mtime_ns)
        checks.equal(f"{name}: links", found.st_nlink, self.links(inode))
        with open(path, "rb") as stream:
            _compare(checks, name, stream.read(), inode.data)
        names = {one for one in os.listxattr(path) if not one.startswith("security.selinux")}
        checks.equal(f"{name}: extended attributes", {one: os.getxattr(path, one) for one in names}, inode.xattrs)
        if inode.number >= 0:
            checks.expect(
                _is_one_file(inode.number, path), f"{name}: the open descriptor is another file than the name"
            )
            self.check_open(name, inode, checks)

    def check_all(self, checks: Checks) -> None:
        """Compare the whole folder with the model: names, files, link groups, orphans."""
        found = sorted(entry.name for entry in os.scandir(self.folder) if entry.is_file(follow_symlinks=False))
        expected = sorted(self.names)
        checks.expect(
            not set(found) - set(expected), f"files that must not exist: {sorted(set(found) - set(expected))}"
        )
        for name in expected:
            checks.guard(name, partial(self.check_name, name, checks))
        self._check_groups(checks, [name for name in expected if name in found])
        for orphan in self.orphans:
            checks.guard("a deleted open file", partial(self.check_open, "a deleted open file", orphan, checks))
        checks.count("names", len(expected))
        checks.count("bytes", sum(len(inode.data) for inode in self.names.values()))
        checks.count("deleted open files", len(self.orphans))

    def check_open(self, name: str, inode: Inode, checks: Checks) -> None:
        """Compare an open file with the model through its descriptor and its mapping."""
        _compare(checks, f"{name}, by its descriptor", os.pread(inode.number, len(inode.data) + 1, 0), inode.data)
        if inode.mapped is not None:
            _compare(checks, f"{name}, by its mapping", inode.mapped[:], inode.data)

    def _check_groups(self, checks: Checks, names: list[str]) -> None:
        by_model: dict[int, set[str]] = {}
        for name in names:
            by_model.setdefault(id(self.names[name]), set()).add(name)
        for _ in range(TRIES):
            groups = self._groups_on_disk(names)
            wrong = [sorted(group) for group in by_model.values() if frozenset(group) not in groups]
            if not wrong:
                break
        checks.problems += [f"not linked as they were: {group}" for group in wrong]
        checks.count("link groups", sum(1 for group in by_model.values() if len(group) > 1))

    def _groups_on_disk(self, names: list[str]) -> set[frozenset[str]]:
        by_inode: dict[int, set[str]] = {}
        for name in names:
            by_inode.setdefault(os.lstat(self.path(name)).st_ino, set()).add(name)
        return {frozenset(group) for group in by_inode.values()}


def _is_one_file(number: int, path: str) -> bool:
    """Whether a descriptor and a name are the same file."""
    return any(os.path.samestat(os.fstat(number), os.lstat(path)) for _ in range(TRIES))


def _compare(checks: Checks, name: str, found: bytes, expected: bytearray) -> None:
    if found != expected:
        place = first_difference(found, expected)
        checks.problems.append(f"{name}: {len(found)} bytes, differs at {place}, {len(expected)} expected")
