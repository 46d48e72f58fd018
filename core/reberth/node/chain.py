"""The rounds' images as one: pages that lie in an earlier round become lazy, and are served from where they lie.

CRIU reads pages of a parent image before the copy runs, 0.8 s for each GiB. Here the final round's pagemap images are
written anew on the target, with those pages marked as left behind; CRIU's daemon then asks for them like for any other
(`prefetch` answers), and the copy runs at once. Pages that cannot be lazy (of files, of locked memory) stay as they
are. Lazy pages in a row become one run wherever they lie: the daemon asks run by run, and a workload that writes here
and there makes as many runs as it wrote pages.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Optional

from reberth.node.errors import OpError
from reberth.node.pagemap import (
    COUNT,
    FLAGS,
    IN_PARENT,
    NAME,
    OLD_COUNT,
    PE_LAZY,
    PE_PARENT,
    PE_PRESENT,
    VADDR,
    messages,
    pack,
)

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MOST_ROUNDS = 1000
COPY_BYTES = 1 << 20


class Run(NamedTuple):
    """Pages in a row: where they belong, how they are marked, and where they lie: `offset` in `file`, -1: nowhere."""

    vaddr: int
    pages: int
    flags: int
    file: int = -1
    offset: int = 0

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.vaddr + self.pages * PAGE_BYTES

    def part(self, first: int, pages: int) -> Run:
        """Some of them, from page `first` of this run on."""
        return self._replace(
            vaddr=self.vaddr + first * PAGE_BYTES, pages=pages, offset=self.offset + first * PAGE_BYTES
        )

    def goes_on(self, other: Run) -> bool:
        """Whether the other one is its continuation, in memory and in its file."""
        here = (other.file < 0 and self.file < 0) or other.offset == self.offset + self.pages * PAGE_BYTES
        return here and (other.vaddr, other.flags, other.file) == (self.end, self.flags, self.file)


class Rows:
    """The runs of one process in order of their addresses, as few as can be."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.starts: list[int] = []  # bisect knows no key before Python 3.10

    def add(self, run: Run) -> None:
        """Behind all others."""
        if self.runs and self.runs[-1].goes_on(run):
            self.runs[-1] = self.runs[-1]._replace(pages=self.runs[-1].pages + run.pages)
        else:
            self.runs.append(run)
            self.starts.append(run.vaddr)

    def at(self, vaddr: int) -> int:
        """Number of the run that begins last at or before the address, -1 for none."""
        return bisect.bisect_right(self.starts, vaddr) - 1

    def find(self, wanted: Run) -> Iterator[Run]:
        """Where these pages lie; OpError `images` for one that no run has."""
        at, index = wanted.vaddr, self.at(wanted.vaddr)
        while at < wanted.end:
            run = self.runs[index] if 0 <= index < len(self.runs) else None
            if run is None or not run.vaddr <= at < run.end:
                raise OpError("images", f"no round has the page at {at:#x}")
            first = (at - run.vaddr) // PAGE_BYTES
            part = run.part(first, min(run.pages - first, (wanted.end - at) // PAGE_BYTES))
            yield part
            at, index = part.end, index + 1


class Local:
    """Pages that lie here, by process and address; `close` when all are in."""

    def __init__(self) -> None:
        self._rows: dict[int, Rows] = {}
        self.files: list[int] = []

    def add(self, pid: int, run: Run) -> None:
        """A run of a process, behind those before it; the file that it lies in is put into `files`."""
        self._rows.setdefault(pid, Rows()).add(run)

    def runs(self) -> Iterator[tuple[int, Run]]:
        """Each run with its process."""
        for pid, rows in self._rows.items():
            for run in rows.runs:
                yield pid, run

    def find(self, pid: int, vaddr: int) -> Optional[tuple[int, int, int]]:
        """File and offset of a page, and how many in a row lie there; None when it is not here."""
        rows = self._rows.get(pid)
        at = rows.at(vaddr) if rows is not None else -1
        if rows is None or at < 0 or vaddr >= rows.runs[at].end:
            return None
        run = rows.runs[at]
        first = (vaddr - run.vaddr) // PAGE_BYTES
        return run.file, run.offset + first * PAGE_BYTES, run.pages - first

    def close(self) -> None:
        """Let go of the images."""
        self._rows.clear()
        while self.files:
            os.close(self.files.pop())


class Past:
    """The rounds before the final one, read while the workload still runs: where each page lies that they brought."""

    def __init__(self) -> None:
        self.files: list[int] = []
        self._newest, self._rows = "", dict[int, Rows]()
        self._lock = threading.Lock()

    def learn(self, directory: str) -> None:
        """Read a round that is here, beside everything else; what is wrong with it is said when it is needed."""

        def run() -> None:
            with contextlib.suppress(OSError, OpError):
                self.rows(directory)

        threading.Thread(target=run, daemon=True).start()

    def rows(self, directory: str) -> dict[int, Rows]:
        """By process, what this round and those before it have; raises OpError `images`."""
        with self._lock:
            unread, at = [], os.path.realpath(directory)
            while at != self._newest:
                unread.append(at)
                if len(unread) > MOST_ROUNDS:
                    raise OpError("images", f"{directory}: more than {MOST_ROUNDS} rounds")
                link = os.path.join(at, "parent")
                if not os.path.islink(link):
                    self._newest, self._rows = "", {}
                    break
                at = os.path.realpath(link)
            for one in reversed(unread):
                self._rows = {pid: self._read(one, name, pid) for pid, name in _pagemaps(one)}
                self._newest = one
            return self._rows

    def _read(self, directory: str, name: str, pid: int) -> Rows:
        found, earlier = Rows(), self._rows.get(pid, Rows())
        for run in _own(directory, messages(os.path.join(directory, name)), self.files):
            for part in earlier.find(run) if run.flags & PE_PARENT else (run,):
                found.add(part)
        return found


def join(directory: str, past: Optional[Past] = None) -> Local:
    """Write the images of the final round in `directory` anew; answers where the pages lie.

    Raises OpError `images` when an image cannot be read, or names pages that no round has.
    """
    local, past = Local(), past or Past()
    try:
        parent = os.path.join(directory, "parent")
        earlier = past.rows(parent) if os.path.islink(parent) else {}
        for pid, name in _pagemaps(directory):
            _join(directory, name, pid, earlier.get(pid, Rows()), local)
        local.files += past.files
        past.files = []
    except BaseException:
        local.close()
        raise
    return local


def _join(directory: str, name: str, pid: int, earlier: Rows, local: Local) -> None:
    path = os.path.join(directory, name)
    entries = messages(path)
    own = list(_own(directory, entries, local.files))
    if not any(run.flags & PE_PARENT for run in own):
        for run in own:
            if run.flags & PE_LAZY and run.file >= 0:
                local.add(pid, run)
        return
    out, held = Rows(), list[Run]()
    for run in own:
        for part in earlier.find(run) if run.flags & PE_PARENT else (run,):
            lies_here = bool(part.flags & PE_LAZY) and part.file >= 0
            if lies_here or run.flags == PE_LAZY:
                out.add(Run(part.vaddr, part.pages, PE_LAZY))
            else:
                out.add(Run(part.vaddr, part.pages, PE_PARENT if run.flags & PE_PARENT else run.flags))
            held += [part] if lies_here else []
    _drop_lazy(os.path.join(directory, f"pages-{entries[0].get(1, 0)}.img"), own)
    shape = set[int]().union(*entries[1:])
    packed = [pack(entries[0]), *(pack(_entry(run, shape)) for run in out.runs)]
    with open(path, "rb") as file:
        magic = file.read(8)
    with _anew(path) as new:
        new.write(magic + b"".join(struct.pack("<I", len(one)) + one for one in packed))
    for part in held:
        local.add(pid, part)


def _drop_lazy(path: str, own: list[Run]) -> None:
    """Leave those pages in the file that stay: CRIU finds a page by counting those before it that are there."""
    if any(run.flags & PE_LAZY and run.file >= 0 for run in own):
        with _anew(path) as new:
            for run in own:
                if run.file >= 0 and not run.flags & PE_LAZY:
                    _copy(run, new)


def _copy(run: Run, to: BinaryIO) -> None:
    at, end = run.offset, run.offset + run.pages * PAGE_BYTES
    while at < end:
        data = os.pread(run.file, min(COPY_BYTES, end - at), at)
        if not data:
            raise OpError("images", "an image is shorter than its pagemap says")
        at += to.write(data)


@contextlib.contextmanager
def _anew(path: str) -> Iterator[BinaryIO]:
    """Write a file in place of another one, of which nobody ever sees half; who has the old one open keeps it."""
    with open(f"{path}.new", "xb", opener=_private) as file:
        yield file
    os.replace(f"{path}.new", path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _entry(run: Run, shape: set[int]) -> dict[int, int]:
    """One entry of the new image, in the words that its CRIU used."""
    parent = bool(run.flags & PE_PARENT)
    fields = {VADDR: run.vaddr, OLD_COUNT: run.pages, IN_PARENT: int(parent), FLAGS: run.flags, COUNT: run.pages}
    known = shape | ({FLAGS} if not parent else set())
    return {word: value for word, value in fields.items() if word in known and (word != IN_PARENT or parent)}


def _pagemaps(directory: str) -> Iterator[tuple[int, str]]:
    """Process and name of each image of this kind."""
    for name in sorted(os.listdir(directory)):
        found = NAME.match(name)
        if found:
            yield int(found[1]), name


def _own(directory: str, entries: list[dict[int, int]], files: list[int]) -> Iterator[Run]:
    """The runs of one image as they are; the file of its pages is opened and put into `files`."""
    path = os.path.join(directory, f"pages-{entries[0].get(1, 0)}.img")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if os.path.exists(path) else -1
    files += [fd] if fd >= 0 else []
    offset = 0
    for entry in entries[1:]:
        flags = entry.get(FLAGS, PE_PARENT if entry.get(IN_PARENT) else PE_PRESENT)
        run = Run(entry[VADDR], entry.get(COUNT, entry.get(OLD_COUNT, 0)), flags)
        if flags & PE_PRESENT:
            run = run._replace(file=fd, offset=offset)
            offset += run.pages * PAGE_BYTES
        yield run
