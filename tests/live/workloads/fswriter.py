"""A process that goes on changing a tree of files and knows exactly how the tree must look."""

from __future__ import annotations

import argparse
import os
import shutil
import time

from workloads.base import Checks, Workload
from workloads.fsmodel import Model
from workloads.fsops import HELD_FILES, Operations
from workloads.fsspecial import Specials

SUSPICIOUS_S = 0.015
KEPT_PROBLEMS = 20


class FsWriter(Workload):
    """Changes ``--tree`` in all ways that a file system delta can miss, and compares it with its memory.

    Disk and memory must be of the same moment. The process continues at the very instruction where it was frozen, so
    between two operations the tree must be exactly as the model says. It is compared before each operation for the
    files it will touch, as a whole after each silence (before anything could cover a stale file), and when asked.
    """

    kind = "fswriter"
    plants = (
        "stale-content",
        "stale-mapped",
        "mtime",
        "mode",
        "owner",
        "xattr",
        "broken-link",
        "swap",
        "missing",
        "extra",
        "descriptor",
        "orphan",
        "special",
    )

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Where and how much."""
        parser.add_argument("--tree", default="", help="folder to be written, default DIR/tree; emptied first")
        parser.add_argument("--files", type=int, default=24)
        parser.add_argument("--size", type=int, default=16384, help="bytes of one file")
        parser.add_argument("--rate", type=float, default=300, help="operations per second")
        parser.add_argument("--bulk-mib", type=int, default=0, help="size of one more file, overwritten in places")

    def setup(self) -> None:
        """Build the tree."""
        self.tree = self.options.tree or os.path.join(self.directory, "tree")
        folder = os.path.join(self.tree, "files")
        shutil.rmtree(self.tree, ignore_errors=True)
        os.makedirs(folder)
        self.specials = Specials(os.path.join(self.tree, "special"))
        self.model = Model(folder)
        self.operations = Operations(self.model, self.seed, self.options.size)
        for index in range(max(self.options.files, HELD_FILES + 4)):
            self.operations.make(f"file-{index:03d}", held=index < HELD_FILES)
        if self.options.bulk_mib:
            self.operations.size_bytes = self.options.bulk_mib << 20
            self.operations.make("bulk", held=True)
            self.operations.size_bytes = self.options.size
        self.problems: list[str] = []
        self.done = 0
        self.debt = 0.0
        self.silences = 0
        self.last = "none"

    def step(self, elapsed_s: float) -> float:
        """After a silence compare everything; then do the operations that are due."""
        begin_s = time.monotonic()
        if elapsed_s > SUSPICIOUS_S:
            self.silences += 1
            self._look(f"after {elapsed_s:.3f} s of silence, last operation {self.last}: ")
            return time.monotonic() - begin_s
        self.debt = min(self.debt + elapsed_s * self.options.rate, 4)
        while self.debt >= 1:
            self.debt -= 1
            self.last = self.operations.one()
            self.done += 1
        return 0.0

    def verify(self, checks: Checks) -> None:
        """Compare everything; all that was found wrong earlier counts too."""
        self._compare(checks)  # first: the answer is cut, and what is wrong now says more than what was
        checks.problems += self.problems + self.operations.found.problems
        checks.count("operations", self.done)
        checks.count("silences looked at", self.silences)
        checks.count("kinds of extended attributes", len(self.operations.xattrs))
        checks.count("skipped specials", len(self.specials.skipped))

    def plant(self, kind: str) -> None:
        """Damage the tree as a stale or careless copy would."""
        if kind not in self.plants:
            raise KeyError(kind)
        getattr(self, "_plant_" + kind.replace("-", "_"))()

    def close(self) -> None:
        """Nothing to end: descriptors go with the process."""

    def _look(self, when: str) -> None:
        checks = Checks()
        checks.guard("comparison", lambda: self._compare(checks))
        room = KEPT_PROBLEMS - len(self.problems)
        self.problems += [when + problem for problem in checks.problems[:room]]

    def _compare(self, checks: Checks) -> None:
        checks.guard("files", lambda: self.model.check_all(checks))
        checks.guard("special", lambda: self.specials.check(checks))

    def _loose(self) -> tuple[str, str]:
        """Two plain files that are not open, with one name each; name and path of the first are used by plants."""
        names = sorted(name for name, inode in self.model.names.items() if inode.number < 0)
        alone = [name for name in names if self.model.links(self.model.names[name]) == 1]
        return alone[0], alone[1]

    def _damage(self, path: str) -> None:
        """Old bytes under the newest time and size."""
        times = os.stat(path)
        with open(path, "r+b") as stream:
            byte = stream.read(1)[0]
            stream.seek(0)
            stream.write(bytes([byte ^ 1]))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _plant_stale_content(self) -> None:
        self._damage(self.model.path(self._loose()[0]))

    def _plant_stale_mapped(self) -> None:
        held = next(name for name, inode in sorted(self.model.names.items()) if inode.mapped is not None)
        self._damage(self.model.path(held))

    def _plant_mtime(self) -> None:
        path = self.model.path(self._loose()[0])
        found = os.stat(path)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns // 1000 * 1000 + (found.st_mtime_ns + 1) % 1000))

    def _plant_mode(self) -> None:
        path = self.model.path(self._loose()[0])
        os.chmod(path, (os.stat(path).st_mode & 0o7777) ^ 0o1)

    def _plant_owner(self) -> None:
        path = self.model.path(self._loose()[0])
        mode = os.stat(path).st_mode & 0o7777
        os.chown(path, os.stat(path).st_uid + 1, -1)
        os.chmod(path, mode)

    def _plant_xattr(self) -> None:
        os.setxattr(self.model.path(self._loose()[0]), self.operations.xattrs[0], b"planted")

    def _plant_broken_link(self) -> None:
        name = self._loose()[0]
        path, link = self.model.path(name), self.model.path("link-planted")
        os.link(path, link)
        self.model.names["link-planted"] = self.model.names[name]
        os.unlink(link)
        shutil.copy2(path, link)

    def _plant_swap(self) -> None:
        one, other = (self.model.path(name) for name in self._loose())
        os.rename(one, one + ".planted")
        os.rename(other, one)
        os.rename(one + ".planted", other)

    def _plant_missing(self) -> None:
        os.unlink(self.model.path(self._loose()[0]))

    def _plant_extra(self) -> None:
        with open(self.model.path("came-back"), "wb"):
            pass

    def _plant_descriptor(self) -> None:
        inode = next(inode for _, inode in sorted(self.model.names.items()) if inode.number >= 0)
        path = self.model.path("planted")
        with open(path, "wb") as stream:
            stream.write(inode.data)
            os.dup2(stream.fileno(), inode.number)
        os.unlink(path)

    def _plant_orphan(self) -> None:
        if not self.model.orphans:
            self.operations.delete_while_open()
        inode = self.model.orphans[-1]
        os.pwrite(inode.number, bytes([inode.data[0] ^ 1]), 0)

    def _plant_special(self) -> None:
        self.specials.spoil()
