"""A process that holds files which have no name any more."""

from __future__ import annotations

import argparse
import mmap
import os

from workloads.base import Bytes, Checks, Workload, content

KIB = 1024
MAPPED_BYTES = 64 * KIB


class Deleted(Workload):
    """Open deleted files of several sizes (``--largest`` stays below criu's ghost limit of 1 MiB), one of them mapped.

    One is written all the time; one more is a deleted directory. ``--linked`` adds a file whose opened name is gone
    while another link stays (needs criu's ``--link-remap``).
    """

    kind = "deleted"
    plants = ("byte", "truncate", "offset", "mapped", "close")

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Sizes and rarer cases."""
        parser.add_argument("--largest", type=int, default=1000 * KIB, help="bytes")
        parser.add_argument("--linked", action="store_true")

    def setup(self) -> None:
        """Create, open, delete."""
        sizes_bytes = [0, 1, 5000, 100 * KIB, self.options.largest]
        self.expected = [bytearray(content(self.seed, f"deleted {size}", size)) for size in sizes_bytes]
        self.descriptors = [self._create(f"deleted-{index}", data) for index, data in enumerate(self.expected)]
        self.offsets = [size // 3 for size in sizes_bytes]
        for number, offset in zip(self.descriptors, self.offsets):
            os.lseek(number, offset, os.SEEK_SET)
        self.mapped_data = bytearray(content(self.seed, "deleted and mapped", MAPPED_BYTES))
        self.mapped_number = self._create("deleted-mapped", self.mapped_data)
        self.mapped = mmap.mmap(self.mapped_number, MAPPED_BYTES)
        self.folder = self._deleted_folder()
        self.linked = self._linked() if self.options.linked else -1
        self.writes = 0

    def step(self, elapsed_s: float) -> float:
        """Write one byte to a deleted file and one through the mapping."""
        target = self.expected[3]
        place = self.writes * 31 % len(target)
        value = self.writes * 7 & 0xFF
        os.pwrite(self.descriptors[3], bytes([value]), place)
        target[place] = value
        self.mapped[place % MAPPED_BYTES] = value
        self.mapped_data[place % MAPPED_BYTES] = value
        self.writes += 1
        return 0.0

    def verify(self, checks: Checks) -> None:
        """Compare content, size, offset; they must still have no name."""
        for index, (number, data) in enumerate(zip(self.descriptors, self.expected)):
            checks.equal(f"deleted file {index}", os.pread(number, len(data) + 1, 0), bytes(data))
            checks.equal(f"offset of deleted file {index}", os.lseek(number, 0, os.SEEK_CUR), self.offsets[index])
            checks.equal(f"links of deleted file {index}", os.fstat(number).st_nlink, 0)
        checks.equal("deleted file, through its mapping", self.mapped[:], bytes(self.mapped_data))
        found = os.pread(self.mapped_number, MAPPED_BYTES + 1, 0)
        checks.equal("deleted mapped file, through its descriptor", found, bytes(self.mapped_data))
        checks.equal("links of the deleted directory", os.fstat(self.folder).st_nlink, 0)
        left = [name for name in os.listdir(self.directory) if name.startswith("deleted-")]
        checks.equal("names that came back", left, [])
        checks.count("deleted files", len(self.descriptors) + 2)
        if self.linked >= 0:
            found = os.pread(self.linked, 100, 0)
            checks.equal("file with another link", found, content(self.seed, "linked", 64))

    def plant(self, kind: str) -> None:
        """Damage the largest one, or the mapped one."""
        number = self.descriptors[-1]
        if kind == "byte":
            os.pwrite(number, bytes([self.expected[-1][777] ^ 1]), 777)
        elif kind == "truncate":
            os.truncate(number, len(self.expected[-1]) - 1)
        elif kind == "offset":
            os.lseek(number, 0, os.SEEK_SET)
        elif kind == "mapped":
            # As if file and mapping had been restored as two files.
            other = self._create("deleted-other", self.mapped_data)
            os.dup2(other, self.mapped_number)
            os.close(other)
        elif kind == "close":
            os.close(number)
        else:
            raise KeyError(kind)

    def _create(self, name: str, data: Bytes) -> int:
        path = os.path.join(self.directory, name)
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(number, data)
        os.unlink(path)
        return number

    def _deleted_folder(self) -> int:
        path = os.path.join(self.directory, "deleted-folder")
        os.mkdir(path)
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        os.rmdir(path)
        return number

    def _linked(self) -> int:
        path = os.path.join(self.directory, "linked")
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.write(number, content(self.seed, "linked", 64))
        os.link(path, path + ".other")
        os.unlink(path)
        return number
