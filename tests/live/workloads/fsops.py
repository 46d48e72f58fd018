"""The operations of the file system writer; each changes disk and model by the same rule."""

from __future__ import annotations

import mmap
import os
import random
from typing import Callable

from workloads import kernel
from workloads.base import Checks
from workloads.fsmodel import Inode, Model

HELD_FILES = 6  # kept open and mapped
KEPT_ORPHANS = 3
KEPT_PROBLEMS = 20
BOTTOM_NS = 1_600_000_000_000_000_000


class Operations:
    """Does one random (seeded) operation at a time on a folder and its model.

    Held files (kept open, mapped shared) are overwritten, touched and swapped, never unlinked by the name they were
    opened with while another link stays: criu moves that only with ``--link-remap``.
    """

    def __init__(self, model: Model, seed: int, size_bytes: int) -> None:
        self.model = model
        self.random = random.Random(f"{seed}/operations")
        self.size_bytes = size_bytes
        self.created = 0
        self.xattrs = supported_xattrs(model.folder)
        self.root = os.geteuid() == 0
        self.found = Checks()
        self.all: list[Callable[[], str]] = [
            self.overwrite,
            self.overwrite_within_a_tick,
            self.overwrite_keep_time,
            self.write_mapped,
            self.write_mapped,
            self.append_or_cut,
            self.swap,
            self.replace,
            self.create,
            self.delete,
            self.delete_while_open,
            self.link,
            self.unlink,
            self.attributes,
            self.extended_attributes,
        ]

    def one(self) -> str:
        """Do the next operation; returns its name and the file."""
        operation = self.all[self.random.randrange(len(self.all))]
        return f"{operation.__name__} {operation()}"

    def make(self, name: str, *, held: bool = False) -> None:
        """Create one file with new content."""
        path = self.model.path(name)
        inode = Inode(bytearray(self.random.randbytes(self.size_bytes)))
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        os.write(number, inode.data)
        inode.number = number
        if held:
            inode.mapped = mmap.mmap(number, self.size_bytes)
        else:
            inode.release()
        self.model.names[name] = inode
        self.model.learn(name)

    def overwrite(self) -> str:
        """pwrite() into the middle."""
        return self._write(self._pick(), keep_time=False)

    def overwrite_within_a_tick(self) -> str:
        """Two overwrites of the same size, microseconds apart: size and (coarse) time cannot tell them apart."""
        name = self._pick()
        self._write(name, keep_time=False)
        return self._write(name, keep_time=False)

    def overwrite_keep_time(self) -> str:
        """Overwrite and put the old mtime back, as some tools do: only the content tells."""
        return self._write(self._pick(), keep_time=True)

    def write_mapped(self) -> str:
        """Write through a shared mapping, mostly to a page that is dirty already: the mtime does not move."""
        held = [name for name, inode in self.model.names.items() if inode.mapped is not None]
        name = self._seen(self.random.choice(sorted(held)))
        inode = self.model.names[name]
        place, data = self._patch(inode, within=4096)
        assert inode.mapped is not None
        inode.mapped[place : place + len(data)] = data
        inode.data[place : place + len(data)] = data
        self.model.learn(name)
        return name

    def append_or_cut(self) -> str:
        """Let a file grow, or cut it back to its first size."""
        name = self._pick(loose=True)
        inode = self.model.names[name]
        if len(inode.data) > self.size_bytes * 2:
            os.truncate(self.model.path(name), self.size_bytes)
            del inode.data[self.size_bytes :]
        else:
            more = self.random.randbytes(1000)
            with open(self.model.path(name), "ab") as stream:
                stream.write(more)
            inode.data += more
        self.model.learn(name)
        return name

    def swap(self) -> str:
        """Swap two names, by renameat2 or by three renames."""
        one, other = self.random.sample(sorted(self.model.names), 2)
        names, path = self.model.names, self.model.path
        self._seen(one)
        self._seen(other)
        if names[one] is names[other]:
            return f"{one} {other} (the same file)"  # renaming hard links of one file onto each other does nothing
        by_steps = self.random.random() < 0.5
        if not by_steps:
            try:
                kernel.exchange(path(one), path(other))
            except OSError:
                by_steps = True  # a file system without RENAME_EXCHANGE
        if by_steps:
            os.rename(path(one), path("swap"))
            os.rename(path(other), path(one))
            os.rename(path("swap"), path(other))
        names[one], names[other] = names[other], names[one]
        return f"{one} {other}"

    def replace(self) -> str:
        """Write a new file and rename it over an old one."""
        name = self._pick(loose=True)
        self.make("replacement")
        os.rename(self.model.path("replacement"), self.model.path(name))
        self.model.names[name] = self.model.names.pop("replacement")
        return name

    def create(self) -> str:
        """A new file."""
        self.created += 1
        name = f"new-{self.created % 8}"
        if name not in self.model.names:
            self.make(name)
        return name

    def delete(self) -> str:
        """Delete a file that nobody holds open."""
        gone = sorted(name for name in self.model.names if name.startswith("new-"))
        loose = [name for name in gone if self.model.names[name].number < 0]
        if not loose:
            return "nothing"
        name = self._seen(self.random.choice(loose))
        os.unlink(self.model.path(name))
        del self.model.names[name]
        return name

    def delete_while_open(self) -> str:
        """Delete a file that stays open here."""
        self.make("orphan")
        inode = self.model.names["orphan"]
        inode.number = os.open(self.model.path("orphan"), os.O_RDWR | os.O_CLOEXEC)
        os.unlink(self.model.path("orphan"))
        self.model.orphans.append(self.model.names.pop("orphan"))
        while len(self.model.orphans) > KEPT_ORPHANS:
            orphan = self.model.orphans.pop(0)
            self.model.check_open("a deleted open file", orphan, self.found)
            orphan.release()
        return "orphan"

    def link(self) -> str:
        """Give a file a second name."""
        name = self._pick(loose=True)
        link = f"link-{self.random.randrange(6)}"
        if link not in self.model.names:
            os.link(self.model.path(name), self.model.path(link))
            self.model.names[link] = self.model.names[name]
        return f"{name} {link}"

    def unlink(self) -> str:
        """Take a second name away."""
        links = sorted(name for name in self.model.names if name.startswith("link-"))
        loose = [name for name in links if self.model.names[name].number < 0]
        if not loose:
            return "nothing"
        name = self._seen(self.random.choice(loose))
        os.unlink(self.model.path(name))
        del self.model.names[name]
        return name

    def attributes(self) -> str:
        """Owner, mode and times with nanoseconds, some of them long ago."""
        name = self._pick()
        path = self.model.path(name)
        if self.root:
            os.chown(path, self.random.randrange(3), self.random.randrange(3))
        os.chmod(path, self.random.choice([0o600, 0o644, 0o640, 0o755, 0o4755, 0o2711]))
        if self.random.random() < 0.5:
            old_ns = BOTTOM_NS + self.random.randrange(10**17)
            os.utime(path, ns=(old_ns, old_ns + 1))
        self.model.learn(name)
        return name

    def extended_attributes(self) -> str:
        """Set or remove one."""
        if not self.xattrs:
            return "not supported here"
        name = self._pick()
        path, inode = self.model.path(name), self.model.names[name]
        key = self.random.choice(self.xattrs)
        if key in inode.xattrs:
            os.removexattr(path, key)
            del inode.xattrs[key]
        else:
            value = self.random.randbytes(20)
            os.setxattr(path, key, value)
            inode.xattrs[key] = value
        return name

    def _write(self, name: str, *, keep_time: bool) -> str:
        path, inode = self.model.path(name), self.model.names[name]
        place, data = self._patch(inode, within=len(inode.data))
        before = os.stat(path)
        number = inode.number if inode.number >= 0 else os.open(path, os.O_RDWR | os.O_CLOEXEC)
        os.pwrite(number, data, place)
        if number != inode.number:
            os.close(number)
        if keep_time:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        inode.data[place : place + len(data)] = data
        self.model.learn(name)
        return name

    def _patch(self, inode: Inode, within: int) -> tuple[int, bytes]:
        """A place and new bytes for it, unlike the old ones."""
        place = self.random.randrange(within - 16)
        return place, bytes(one ^ 0x5A ^ self.random.randrange(0x80, 0x100) for one in inode.data[place : place + 16])

    def _pick(self, *, loose: bool = False) -> str:
        names = [name for name, inode in self.model.names.items() if not loose or inode.number < 0]
        return self._seen(self.random.choice(sorted(names)))

    def _seen(self, name: str) -> str:
        """Compare a file with the model before an operation could cover that it is stale."""
        self.model.check_name(name, self.found)
        del self.found.problems[KEPT_PROBLEMS:]
        return name


def supported_xattrs(folder: str) -> list[str]:
    """The extended attributes that this file system and these privileges take."""
    probe = os.path.join(folder, "xattr-probe")
    found = []
    with open(probe, "wb"):
        pass
    for key in ("user.one", "user.two", "trusted.one"):
        try:
            os.setxattr(probe, key, b"1")
            found.append(key)
        except OSError:
            continue
    os.unlink(probe)
    return found
