"""The rounds' images as one: pages that lie in an earlier round become lazy, and are served from where they lie.

CRIU reads pages of a parent image before the copy runs, 0.8 s for each GiB. Here the final round's pagemap images are
written anew on the target, with those pages marked as left behind; CRIU's daemon then asks for them like for any other
(`prefetch` answers), and the copy runs at once. Pages that cannot be lazy (of files, of locked memory) stay as they
are.
"""

from __future__ import annotations

import bisect
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple, Optional

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


class Run(NamedTuple):
    """Pages in a row: where they belong, how they are marked, and where they lie: `offset` in `file`, -1: nowhere."""

    vaddr: int
    pages: int
    flags: int
    file: int = -1
    offset: int = 0

    def part(self, first: int, pages: int) -> Run:
        """Some of them, from page `first` of this run on."""
        return self._replace(
            vaddr=self.vaddr + first * PAGE_BYTES, pages=pages, offset=self.offset + first * PAGE_BYTES
        )


class Local:
    """Pages that lie here, by process and address; `close` when all are in."""

    def __init__(self) -> None:
        self._runs: dict[int, list[Run]] = {}
        self.files: list[int] = []

    def add(self, pid: int, runs: list[Run]) -> None:
        """The runs of one process, in order of their addresses; the files that they lie in are put into `files`."""
        self._runs[pid] = runs

    def find(self, pid: int, vaddr: int) -> Optional[tuple[int, int, int]]:
        """File and offset of a page, and how many in a row lie there; None when it is not here."""
        runs = self._runs.get(pid, [])
        at = bisect.bisect_right(runs, vaddr, key=_vaddr) - 1
        if at < 0 or vaddr >= runs[at].vaddr + runs[at].pages * PAGE_BYTES:
            return None
        first = (vaddr - runs[at].vaddr) // PAGE_BYTES
        return runs[at].file, runs[at].offset + first * PAGE_BYTES, runs[at].pages - first

    def close(self) -> None:
        """Let go of the images."""
        self._runs.clear()
        while self.files:
            os.close(self.files.pop())


def _vaddr(run: Run) -> int:
    return run.vaddr


def join(directory: str) -> Local:
    """Write the pagemap images of the final round in `directory` anew; answers where the pages lie.

    Raises OpError `images` when an image cannot be read, or names pages that no round has.
    """
    local = Local()
    try:
        for name in sorted(os.listdir(directory)):
            found = NAME.match(name)
            if found:
                runs: list[Run] = []
                local.add(int(found[1]), runs)
                _join(directory, name, runs, local.files)
    except BaseException:
        local.close()
        raise
    return local


def _join(directory: str, name: str, runs: list[Run], files: list[int]) -> None:
    levels = list(_levels(directory, name, files))
    path = os.path.join(directory, name)
    with open(path, "rb") as file:
        magic = file.read(8)
    head, *entries = messages(path)
    written = [pack(head)]
    for entry in entries:
        run = _run(entry)
        for part in _resolve(levels, 0, run) if run.flags & PE_PARENT else [run]:
            lies_here = part.file >= 0 and bool(part.flags & PE_LAZY)
            written.append(pack(_entry(entry, part, lies_here) if run.flags & PE_PARENT else entry))
            if run.flags & PE_PARENT and lies_here:
                runs.append(part)
        if run.flags & PE_LAZY and run.flags & PE_PRESENT:
            runs += _resolve(levels, 0, run)
    if any(run.flags & PE_PARENT for run in map(_run, entries)):
        _replace(path, magic + b"".join(struct.pack("<I", len(one)) + one for one in written))


def _replace(path: str, data: bytes) -> None:
    """Nobody ever sees half of it."""
    with open(f"{path}.new", "xb", opener=_private) as file:
        file.write(data)
    os.replace(f"{path}.new", path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _entry(entry: dict[int, int], part: Run, lies_here: bool) -> dict[int, int]:
    """One entry of the new image: as it was, or as one of a page left behind."""
    fields = {**entry, VADDR: part.vaddr}
    for word in (OLD_COUNT, COUNT):
        if word in entry:
            fields[word] = part.pages
    if lies_here:
        fields.pop(IN_PARENT, None)
        fields[FLAGS] = PE_LAZY
    return dict(sorted(fields.items()))


def _levels(directory: str, name: str, files: list[int]) -> Iterator[list[Run]]:
    """The runs of one process in each round, the last one first."""
    for _ in range(MOST_ROUNDS):
        path = os.path.join(directory, name)
        if not os.path.exists(path):  # a task that was born later
            return
        head, *entries = messages(path)
        pages = os.path.join(directory, f"pages-{head.get(1, 0)}.img")
        offset, runs = 0, []
        fd = os.open(pages, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if os.path.exists(pages) else -1
        files += [fd] if fd >= 0 else []
        for entry in entries:
            run = _run(entry)
            present = bool(run.flags & PE_PRESENT)
            runs.append(run._replace(file=fd if present else -1, offset=offset))
            offset += run.pages * PAGE_BYTES if present else 0
        yield runs
        parent = os.path.join(directory, "parent")
        if not os.path.islink(parent):
            return
        directory = os.path.join(directory, os.readlink(parent))
    raise OpError("images", f"{directory}: more than {MOST_ROUNDS} rounds")


def _run(entry: dict[int, int]) -> Run:
    flags = entry.get(FLAGS, PE_PARENT if entry.get(IN_PARENT) else PE_PRESENT)
    return Run(entry[VADDR], entry.get(COUNT, entry.get(OLD_COUNT, 0)), flags)


def _resolve(levels: list[list[Run]], level: int, wanted: Run) -> Iterator[Run]:
    """Where these pages lie: in this round, or in one before it."""
    if level >= len(levels):
        raise OpError("images", f"no round has the pages at {wanted.vaddr:#x}")
    runs = levels[level]
    at, end = wanted.vaddr, wanted.vaddr + wanted.pages * PAGE_BYTES
    index = max(0, bisect.bisect_right(runs, at, key=_vaddr) - 1)
    while at < end:
        if index >= len(runs) or runs[index].vaddr > at:
            raise OpError("images", f"no round has the page at {at:#x}")
        run = runs[index]
        first = (at - run.vaddr) // PAGE_BYTES
        pages = min(run.pages - first, (end - at) // PAGE_BYTES)
        if pages > 0:
            part = run.part(first, pages)
            if run.flags & PE_PARENT:
                yield from _resolve(levels, level + 1, part)
            else:
                yield part
            at += pages * PAGE_BYTES
        index += 1
