"""Memory ahead of the freeze: what the tasks hold while they run is sent, so that the images need only what changed.

It is a guess and nothing more: the images are CRIU's, and what of them is in the guess is found by comparing bytes,
here, after the dump. The receiver puts each file together and checks it against the digest of the whole, as ever. So it
needs no dirty tracking of the kernel, and nothing that a task does meanwhile can make it wrong.
"""

from __future__ import annotations

import array
import bisect
import contextlib
import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, Optional

from reberth.node.system import procs

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
READ_BYTES = 1 << 20
COMPARE_BYTES = 64 << 10  # a slice of this size is compared at once: about 6 GiB/s, page by page a third of it
PAGEMAP_ENTRIES = 1 << 16
LARGEST_BYTES = 1 << 40  # a mapping of more is a reservation, and walking its page table takes seconds
MAPPING = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (....) \S+ \S+ \S+ *(.*)")
PRESENT, PARENT = 4, 1  # flags of CRIU's pagemap entries
MAGICS_BYTES = 8


class Place(NamedTuple):
    """Pages in a file: `length` bytes from `offset` on are those of a task from `address` on."""

    offset: int
    length: int
    task: int
    address: int


class Hint(NamedTuple):
    """Where the bytes of a new file may be found in an older one."""

    offset: int
    length: int
    at: int


class Guess:
    """One capture, kept to compare with: its file loses its name and goes with this object.

    `digest` is what the file was sent with.
    """

    def __init__(self, path: str, places: list[Place]) -> None:
        self.digest = b""
        self.fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._by_task: dict[int, list[Place]] = {}
        for place in sorted(places, key=lambda p: (p.task, p.address)):
            self._by_task.setdefault(place.task, []).append(place)
        self._starts = {task: [p.address for p in rows] for task, rows in self._by_task.items()}

    def hints(self, places: list[Place]) -> list[Hint]:
        """For each of these places what this capture has of the same addresses, in order of their offsets."""
        found: list[Hint] = []
        for new in sorted(places):
            rows = self._by_task.get(new.task, [])
            index = max(0, bisect.bisect_right(self._starts.get(new.task, []), new.address) - 1)
            for old in rows[index:]:
                if old.address >= new.address + new.length:
                    break
                start = max(old.address, new.address)
                length = min(old.address + old.length, new.address + new.length) - start
                if length > 0:
                    found.append(Hint(new.offset + start - new.address, length, old.offset + start - old.address))
        return found

    def matcher(self, places: list[Place]) -> Optional[Matcher]:
        """Return what finds pieces of a file with these places in this capture; None when there is nothing to find."""
        hints = self.hints(places)
        return Matcher(hints, self) if hints else None

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            os.close(self.fd)


class Matcher:
    """Splits a file's bytes, given in order, into what the other end has already and what it needs."""

    def __init__(self, hints: list[Hint], guess: Guess) -> None:
        self._hints, self._guess = hints, guess
        self.earlier = guess.digest
        self._ends = [hint.offset + hint.length for hint in hints]

    def split(self, offset: int, view: memoryview) -> Iterator[tuple[int, int, int]]:
        """Start and length within `view`, and where the other end has it, -1: nowhere."""
        start, length, at = 0, 0, -1
        for size, there in self._parts(offset, view):
            if length and (there < 0) == (at < 0) and (there < 0 or there == at + length):
                length += size
                continue
            if length:
                yield start, length, at
            start, length, at = start + length, size, there
        if length:
            yield start, length, at

    def _parts(self, offset: int, view: memoryview) -> Iterator[tuple[int, int]]:
        done, end = 0, len(view)
        index = bisect.bisect_right(self._ends, offset)
        while done < end:
            if index >= len(self._hints) or self._hints[index].offset >= offset + end:
                yield end - done, -1
                return
            hint = self._hints[index]
            begin = max(hint.offset - offset, done)
            if begin > done:
                yield begin - done, -1
            stop = min(hint.offset + hint.length - offset, end)
            yield from self._compare(view[begin:stop], hint.at + offset + begin - hint.offset)
            done, index = stop, index + 1

    def _compare(self, view: memoryview, at: int, step: int = COMPARE_BYTES) -> Iterator[tuple[int, int]]:
        """Bytes objects are compared by memcmp(3), memoryviews item by item; reading is cheaper than a map's faults."""
        for start in range(0, len(view), step):
            piece = view[start : start + step]
            if bytes(piece) == os.pread(self._guess.fd, len(piece), at + start):
                yield len(piece), at + start
            elif step > PAGE_BYTES:
                yield from self._compare(piece, at + start, PAGE_BYTES)
            else:
                yield len(piece), -1


def capture(pids: list[int], path: str, tick: Callable[[], None] = lambda: None) -> list[Place]:
    """Write what CRIU would dump of these tasks and all below them into a new file; returns what lies where in it.

    A task or a mapping that goes meanwhile, or cannot be read, is left out. `tick` is called for each piece: nothing is
    sent before the end, which takes longer than anybody waits for a link (a minute for 64 GiB).
    """
    places: list[Place] = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        for pid in sorted({task.pid for root in pids for task in procs.tree(root)}):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                _capture_task(pid, fd, places, tick)
    finally:
        os.close(fd)
    return places


def _capture_task(pid: int, out: int, places: list[Place], tick: Callable[[], None]) -> None:
    inner = _inner_pid(pid)
    buffer = memoryview(bytearray(READ_BYTES))
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for first, last in list(_mappings(pid)):
            for start, end in _runs(pagemap.fileno(), first, last):
                offset = os.lseek(out, 0, os.SEEK_CUR)
                length = _copy(mem.fileno(), start, end, out, buffer, tick)
                if length:
                    places.append(Place(offset, length, inner, start))


def _copy(mem: int, start: int, end: int, out: int, buffer: memoryview, tick: Callable[[], None]) -> int:
    """Whole pages only; an error is a mapping that has gone."""
    at = start
    with contextlib.suppress(OSError):
        while at < end:
            tick()
            count = os.preadv(mem, [buffer[: min(len(buffer), end - at)]], at) // PAGE_BYTES * PAGE_BYTES
            if count <= 0:
                break
            view = buffer[:count]
            while view:
                view = view[os.write(out, view) :]
            at += count
    return at - start


def _inner_pid(pid: int) -> int:
    """Return the pid in the task's own namespace, by which CRIU names its images."""
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return pid


def _mappings(pid: int) -> Iterator[tuple[int, int]]:
    """Private mappings that hold pages of their own."""
    first = last = 0
    with open(f"/proc/{pid}/smaps", "rb") as lines:
        for line in lines:
            if line.startswith((b"Anonymous:", b"Swap:")):
                if int(line.split()[1]) and 0 < last - first <= LARGEST_BYTES:
                    yield first, last
                    first = last
                continue
            found = MAPPING.match(line)
            if found:
                private = found[3].endswith(b"p") and not found[4].startswith(b"[v")
                first, last = (int(found[1], 16), int(found[2], 16)) if private else (0, 0)


def _runs(pagemap: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Runs of pages that are there (or in swap) and not a file's: bits 63, 62 and 61 of an entry."""
    start = -1
    for block in range(first, last, PAGEMAP_ENTRIES * PAGE_BYTES):
        entries = array.array("Q")
        count = min(PAGEMAP_ENTRIES, (last - block) // PAGE_BYTES)
        data = os.pread(pagemap, count * 8, block // PAGE_BYTES * 8)
        entries.frombytes(data[: len(data) // 8 * 8])
        for number, entry in enumerate(entries):
            ours = entry >> 62 and not entry >> 61 & 1
            if ours and start < 0:
                start = block + number * PAGE_BYTES
            elif not ours and start >= 0:
                yield start, block + number * PAGE_BYTES
                start = -1
    if start >= 0:
        yield start, last


def places_of_images(directory: str) -> dict[str, list[Place]]:
    """Return what CRIU's `pagemap-PID.img` say about the `pages-N.img` beside them.

    One that is not understood is silent.
    """
    found: dict[str, list[Place]] = {}
    for name in os.listdir(directory):
        word = re.fullmatch(r"pagemap-(\d+)\.img", name)
        if word:
            with contextlib.suppress(OSError, ValueError, IndexError, struct.error):
                pages, places = _places_of(os.path.join(directory, name), int(word[1]))
                found[f"pages-{pages}.img"] = places
    return found


def _places_of(path: str, task: int) -> tuple[int, list[Place]]:
    """Magic numbers, then messages after their length: a head with the number of the pages file, and the entries."""
    with open(path, "rb") as file:
        data = file.read()
    at, offset, pages = MAGICS_BYTES, 0, -1
    places: list[Place] = []
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        values = _varints(data[at + 4 : at + 4 + size])
        at += 4 + size
        if pages < 0:
            pages = values[1]
            continue
        length = values.get(5, values.get(2, 0)) * PAGE_BYTES  # 64 bits in field 5 since CRIU 4.1
        flags = values.get(4, PARENT if values.get(3) else PRESENT)
        if flags & PRESENT:
            places.append(Place(offset, length, task, values[1]))
            offset += length
    return pages, places


def _varints(message: bytes) -> dict[int, int]:
    """Return the fields of a protobuf message that holds numbers only; ValueError for any other."""
    found: dict[int, int] = {}
    at, numbers = 0, []
    while at < len(message):
        value = shift = 0
        while True:
            byte = message[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                break
        numbers.append(value)
    for key, value in zip(numbers[::2], numbers[1::2]):
        if key & 7:
            raise ValueError("not a number")
        found[key >> 3] = value
    return found
