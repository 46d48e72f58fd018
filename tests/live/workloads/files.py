"""A process with many open files."""

from __future__ import annotations

import argparse
import fcntl
import os
import resource

from workloads.base import Checks, Workload, content

SPARE_DESCRIPTORS = 64
FIRST_DESCRIPTOR = 64
OLD_TIME_NS = 1_700_000_000_123_456_789


class Files(Workload):
    """``--count`` files that ``prepare`` made, open for reading, with offsets that move by a known rule.

    Every tenth descriptor has a twin (dup) that shares its offset, every third closes on exec.
    """

    kind = "files"
    plants = ("offset", "close", "swap", "content", "cloexec", "twin")

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """How many files."""
        parser.add_argument("--count", type=int, default=1000)

    def prepare(self) -> None:
        """Write the files: same seed, same bytes, sizes, modes and times, on whichever node."""
        os.makedirs(self._folder(), exist_ok=True)
        for index in range(self.options.count):
            path = self._path(index)
            with open(path, "wb") as stream:
                stream.write(self._content(index))
            os.chmod(path, 0o600 if index % 2 else 0o644)
            os.utime(path, ns=(OLD_TIME_NS, OLD_TIME_NS + index))

    def setup(self) -> None:
        """Open the files."""
        count: int = self.options.count
        if not os.path.exists(self._path(count - 1)):
            self.prepare()
        _allow_descriptors(FIRST_DESCRIPTOR + count * 2 + SPARE_DESCRIPTORS)
        self.contents = [self._content(index) for index in range(count)]
        self.descriptors = [self._open(index) for index in range(count)]
        self.twins: dict[int, int] = {}
        for index in range(0, count, 10):
            self.twins[index] = fcntl.fcntl(self.descriptors[index], fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR + count)
        self.reads = 0

    def step(self, elapsed_s: float) -> float:
        """Read one byte of the next file; back to its beginning when it was read to the end."""
        index = self.reads % len(self.descriptors)
        if not os.read(self.descriptors[index], 1):
            raise RuntimeError(f"file {index} ended early")
        if self._offset(index, self.reads + 1) == 0:
            os.lseek(self.descriptors[index], 0, os.SEEK_SET)
        self.reads += 1
        return 0.0

    def verify(self, checks: Checks) -> None:
        """Look at every descriptor: which file, its content, its offset, its flags."""
        for index in range(len(self.descriptors)):
            checks.guard(f"file {index}", lambda index=index: self._check(checks, index))  # type: ignore[misc]
        checks.count("files", len(self.descriptors))
        checks.count("twins", len(self.twins))

    def plant(self, kind: str) -> None:
        """Damage the descriptor or file that is read last."""
        last = (self.reads - 2) % len(self.descriptors)
        one, other = self.descriptors[last], self.descriptors[last - 1]
        if kind == "offset":
            os.lseek(one, 1, os.SEEK_CUR)
        elif kind == "close":
            os.close(one)
        elif kind == "swap":
            third = os.dup(one)
            os.dup2(other, one, inheritable=last % 3 != 0)
            os.dup2(third, other, inheritable=(last - 1) % 3 != 0)
            os.close(third)
        elif kind == "content":
            damaged = bytearray(self.contents[last])
            damaged[0] ^= 1
            with open(self._path(last), "r+b") as stream:
                stream.write(damaged)
        elif kind == "cloexec":
            os.set_inheritable(one, not os.get_inheritable(one))
        elif kind == "twin":
            # As if the two had been restored as two separate openings of one file.
            index = next(iter(self.twins))
            alone = self._open(index)
            os.lseek(alone, os.lseek(self.descriptors[index], 0, os.SEEK_CUR), os.SEEK_SET)
            os.dup2(alone, self.twins[index], inheritable=False)
            os.close(alone)
        else:
            raise KeyError(kind)

    def _check(self, checks: Checks, index: int) -> None:
        number = self.descriptors[index]
        checks.equal(f"content of file {index}", os.pread(number, 1 << 16, 0), self.contents[index])
        offset = self._offset(index, self.reads)
        checks.equal(f"offset of file {index}", os.lseek(number, 0, os.SEEK_CUR), offset)
        checks.equal(f"file {index} is inheritable", os.get_inheritable(number), index % 3 != 0)
        opened, named = os.fstat(number), os.stat(self._path(index))
        checks.equal(f"inode of file {index}", (opened.st_dev, opened.st_ino), (named.st_dev, named.st_ino))
        twin = self.twins.get(index)
        if twin is not None:
            os.lseek(number, offset + 3, os.SEEK_SET)
            found = os.lseek(twin, 0, os.SEEK_CUR)
            os.lseek(number, offset, os.SEEK_SET)
            checks.equal(f"shared offset of the twin of file {index}", found, offset + 3)

    def _offset(self, index: int, reads: int) -> int:
        """Offset of a file after ``reads`` reads in all: each of its own moves it by one, the end wraps to 0."""
        own = reads // len(self.descriptors) + (1 if reads % len(self.descriptors) > index else 0)
        return own % len(self.contents[index])

    def _open(self, index: int) -> int:
        number = os.open(self._path(index), os.O_RDONLY | os.O_CLOEXEC)
        place = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
        os.close(number)
        os.set_inheritable(place, index % 3 != 0)
        return place

    def _folder(self) -> str:
        return os.path.join(self.directory, "files")

    def _path(self, index: int) -> str:
        return os.path.join(self._folder(), f"{index:05d}")

    def _content(self, index: int) -> bytes:
        return content(self.seed, f"file {index}", 100 + index * 37 % 4000)


def _allow_descriptors(number: int) -> None:
    """Raise the soft limit; the hard one is not ours to raise (no CAP_SYS_RESOURCE in the lab)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))
