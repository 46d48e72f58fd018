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

from reberth.node.criu.pagemap import (
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
from reberth.node.errors import OpError

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MOST_ROUNDS = 1000
COPY_BYTES = 1 << 20
HERE = 0  # in place of a file, where any will do


class Run(NamedTuple):
    """Pages in a row: where they belong, how they are marked, and where they lie: `offset` in `file`, -1: nowhere."""

    vaddr: int
    pages: int
    flags: int
    file: int = -1
    offset: int = 0

    @property
    def end(self) -> int:
        """Return the first address behind it."""
        return self.vaddr + self.pages * PAGE_BYTES

    def part(self, first: int, pages: int) -> Run:
        """Some of them, from page `first` of this run on."""
        return self._replace(
            vaddr=self.vaddr + first * PAGE_BYTES, pages=pages, offset=self.offset + first * PAGE_BYTES
        )

    def goes_on(self, other: Run) -> bool:
        """Tell whether the other one is its continuation, in memory and in its file."""
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


class Layers:
    """The runs of one process in each round, the newest first: a page lies in the first one that does not look back."""

    def __init__(self, rounds: list[Rows]) -> None:
        self.rounds = rounds
        self.cover = Rows()  # pages that are lazy and lie here, in as few runs as can be; for the next round

    def below(self, rows: Rows) -> Layers:
        """Return the same under one more round."""
        found = Layers([rows, *self.rounds])
        for run in rows.runs:
            for part in self.split(run) if run.flags & PE_PARENT else (run,):
                if part.flags & PE_LAZY and part.file >= 0:
                    found.cover.add(Run(part.vaddr, part.pages, PE_LAZY))
        return found

    def at(self, vaddr: int) -> Run:
        """Return where this page lies, with those that follow it there; OpError `images` when no round has it."""
        pages = 0
        for rows in self.rounds:
            number = rows.at(vaddr)
            run = rows.runs[number] if number >= 0 else None
            if run is None or vaddr >= run.end:
                break
            first = (vaddr - run.vaddr) // PAGE_BYTES
            pages = min(pages or run.pages, run.pages - first)
            if not run.flags & PE_PARENT:
                return run.part(first, pages)
        raise OpError("images", f"no round has the page at {vaddr:#x}")

    def split(self, wanted: Run) -> Iterator[Run]:
        """Yield the same pages in runs that lie in one place each; those that are lazy and lie here stay together."""
        number = self.cover.at(wanted.vaddr)
        if number >= 0 and wanted.end <= self.cover.runs[number].end:
            yield Run(wanted.vaddr, wanted.pages, PE_LAZY, HERE)
            return
        at = wanted.vaddr
        while at < wanted.end:
            run = self.at(at)
            run = run._replace(pages=min(run.pages, (wanted.end - at) // PAGE_BYTES))
            yield run
            at = run.end


class Local:
    """Pages that lie here, by process and address; `close` when all are in."""

    def __init__(self) -> None:
        self._layers: dict[int, Layers] = {}
        self.files: list[int] = []

    def add(self, pid: int, layers: Layers) -> None:
        """The rounds of a process; the files that its pages lie in are put into `files`."""
        self._layers[pid] = layers

    def has(self, pid: int) -> bool:
        """Tell whether any page of the process may lie here."""
        return pid in self._layers

    def left(self) -> Iterator[tuple[int, Run]]:
        """Yield the runs that the last round has left at the source, with their process."""
        for pid, layers in self._layers.items():
            for run in layers.rounds[0].runs:
                if run.flags == PE_LAZY:
                    yield pid, run

    def find(self, pid: int, vaddr: int) -> Optional[tuple[int, int, int]]:
        """File and offset of a page, and how many in a row lie there; None when it is not here."""
        if pid not in self._layers:
            return None
        try:
            run = self._layers[pid].at(vaddr)
        except OpError:
            return None
        return (run.file, run.offset, run.pages) if run.file >= 0 and run.flags & PE_LAZY else None

    def close(self) -> None:
        """Let go of the images."""
        self._layers.clear()
        while self.files:
            os.close(self.files.pop())


class Past:
    """The rounds before the final one, read while the workload still runs: where each page lies that they brought."""

    def __init__(self) -> None:
        self.files: list[int] = []
        self._newest, self._layers = "", dict[int, Layers]()
        self._lock = threading.Lock()

    def learn(self, directory: str) -> None:
        """Read a round that is here, beside everything else; what is wrong with it is said when it is needed."""

        def run() -> None:
            with contextlib.suppress(OSError, OpError):
                self.layers(directory)

        threading.Thread(target=run, daemon=True).start()

    def layers(self, directory: str) -> dict[int, Layers]:
        """By process, what this round and those before it have; raises OpError `images`."""
        with self._lock:
            unread, at = [], os.path.realpath(directory)
            while at != self._newest:
                unread.append(at)
                if len(unread) > MOST_ROUNDS:
                    raise OpError("images", f"{directory}: more than {MOST_ROUNDS} rounds")
                link = os.path.join(at, "parent")
                if not os.path.islink(link):
                    self._newest, self._layers = "", {}
                    break
                at = os.path.realpath(link)
            for one in reversed(unread):
                self._layers = {pid: self._read(one, name, pid) for pid, name in _pagemaps(one)}
                self._newest = one
            return self._layers

    def _read(self, directory: str, name: str, pid: int) -> Layers:
        rows = _own(directory, messages(os.path.join(directory, name)), self.files)
        return self._layers.get(pid, NOTHING).below(rows)


def join(directory: str, past: Optional[Past] = None) -> Local:
    """Write the images of the final round in `directory` anew; returns where the pages lie.

    Raises OpError `images` when an image cannot be read, or names pages that no round has.
    """
    local, past = Local(), past or Past()
    try:
        parent = os.path.join(directory, "parent")
        if os.path.islink(parent):
            earlier = past.layers(parent)
            for pid, name in _pagemaps(directory):
                local.add(pid, _join(directory, name, earlier.get(pid, NOTHING), local.files))
        local.files += past.files
        past.files = []
    except BaseException:
        local.close()
        raise
    return local


def _join(directory: str, name: str, earlier: Layers, files: list[int]) -> Layers:
    path = os.path.join(directory, name)
    entries = messages(path)
    own = _own(directory, entries, files)
    out = Rows()
    for run in own.runs:
        for part in earlier.split(run) if run.flags & PE_PARENT else (run,):
            if (part.flags & PE_LAZY and part.file >= 0) or run.flags == PE_LAZY:
                out.add(Run(part.vaddr, part.pages, PE_LAZY))
            else:
                out.add(Run(part.vaddr, part.pages, PE_PARENT if run.flags & PE_PARENT else run.flags))
    _drop_lazy(os.path.join(directory, f"pages-{entries[0].get(1, 0)}.img"), own.runs)
    shape = set[int]().union(*entries[1:])
    packed = [pack(entries[0]), *(pack(_entry(run, shape)) for run in out.runs)]
    with open(path, "rb") as file:
        magic = file.read(8)
    with _anew(path) as new:
        new.write(magic + b"".join(struct.pack("<I", len(one)) + one for one in packed))
    return Layers([own, *earlier.rounds])


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
    """Write a file in place of another one in one step; a process that has the old one open keeps it."""
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


def _own(directory: str, entries: list[dict[int, int]], files: list[int]) -> Rows:
    """Return the runs of one image as they are; the file of its pages is opened and put into `files`."""
    found = Rows()
    path = os.path.join(directory, f"pages-{entries[0].get(1, 0)}.img")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if os.path.exists(path) else -1
    files += [fd] if fd >= 0 else []
    offset = 0
    for entry in entries[1:]:
        flags = entry.get(FLAGS, PE_PARENT if entry.get(IN_PARENT) else PE_PRESENT)
        pages = entry.get(COUNT, entry.get(OLD_COUNT, 0))
        if flags & PE_PRESENT:
            found.add(Run(entry[VADDR], pages, flags, fd, offset))
            offset += pages * PAGE_BYTES
        else:
            found.add(Run(entry[VADDR], pages, flags))
    return found


NOTHING = Layers([])
