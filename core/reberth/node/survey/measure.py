"""Measurements before a move: how fast a workload writes to its memory, how fast the node and the way to the other are.

Both only read. The dirty rate is sampled by hashing pages, which works on every kernel; soft-dirty bits, where there
are any, belong to CRIU.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable

from reberth.node.errors import OpError
from reberth.node.system import procs
from reberth.node.tree import compression

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLE_PAGES = 4096
HUGE_PAGES = (2 << 20) // PAGE_BYTES
LOOKS_S = (0.25, 0.5, 1.0, 2.0)
PRESENT = 1 << 63
PROBE_WAIT_S = 15.0
WARM_UP = 0.4  # of the time in which a link is looked at
PIECE_BYTES = 1 << 20
PACE_PIECES, PACE_TRIES = 16, 3
PACKED_PAGES, PACKED_RUN = 1024, 16  # as they lie in an image: 64 KiB each from all over the memory
# Of one look at all pages: of the table at once, of places kept, of the processor's time.
ENTRIES, MOST_PLACES, LOOK_CPU_S = 1 << 17, 1 << 18, 5.0


def dirty_rate(daemon: Daemon, progress: Any, pid: int) -> dict[str, Any]:
    """Watch a sample of a tree's private memory for two seconds.

    Answers `resident_bytes` (of private writable memory), `dirty_bytes_s` (distinct pages, at first), `set_bytes` (the
    size of what is written again and again) and `sample_pages`; where memory lies in huge pages also `tracked_bytes_s`
    and `tracked_set_bytes`, the same as the kernel tracks it: of 2 MiB one written byte makes all dirty. Raises
    OpError `ended`.
    """
    tasks = procs.tree(pid)
    if not tasks:
        raise OpError("ended", f"there is no process {pid}")
    found_places = Places([task.pid for task in tasks])
    places = found_places.kept
    sample = places[:: max(1, len(places) // SAMPLE_PAGES)]
    if not sample:
        return {"resident_bytes": 0, "dirty_bytes_s": 0.0, "set_bytes": 0, "sample_pages": 0}
    first, started_s = _hashes(sample), time.monotonic()
    total, huge = found_places.total * PAGE_BYTES, sum(_huge_bytes(t.pid) for t in tasks)
    seen: list[tuple[float, float]] = []
    tracked: list[tuple[float, float]] = []
    for look_s in LOOKS_S:
        time.sleep(max(0.0, started_s + look_s - time.monotonic()))
        now = _hashes(sample)
        share = sum(a != b for a, b in zip(first, now)) / len(sample)
        now_s = time.monotonic() - started_s
        seen.append((now_s, share * total))
        tracked.append((now_s, tracked_bytes(share, total, huge)))
    rate, size = fit(seen)
    found = {
        "resident_bytes": total,
        "dirty_bytes_s": rate,
        "set_bytes": min(int(size), total),
        "sample_pages": len(sample),
    }
    if huge:
        rate, size = fit(tracked)
        found |= {"tracked_bytes_s": rate, "tracked_set_bytes": min(int(size), total)}
    return found


def tracked_bytes(share: float, total_bytes: int, huge_bytes: int) -> float:
    """Return what is dirty to the kernel when this share of all pages, anywhere in them, was written."""
    huge = min(huge_bytes, total_bytes)
    return (total_bytes - huge) * share + huge * (1 - (1 - share) ** HUGE_PAGES)


def _huge_bytes(pid: int) -> int:
    """Memory of a task that lies in transparent huge pages."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as lines:
            return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHugePages:"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


@functools.lru_cache(None)
def _piece() -> bytes:
    """Return what a link or a disk cannot compress."""
    return os.urandom(PIECE_BYTES)


def pace(daemon: Daemon, progress: Any) -> dict[str, float]:
    """Return how fast this node writes to memory through the kernel and reads it back, as CRIU does: `copy_bytes_s`."""
    best_s = math.inf
    piece = _piece()
    buffer = bytearray(piece)
    fd = os.memfd_create("pace")
    try:
        for _ in range(PACE_TRIES):  # the first one waits for the pages themselves
            started_s = time.monotonic()
            for number in range(PACE_PIECES):
                os.pwrite(fd, piece, number * PIECE_BYTES)
            for number in range(PACE_PIECES):
                os.preadv(fd, [buffer], number * PIECE_BYTES)
            best_s = min(best_s, time.monotonic() - started_s)
    finally:
        os.close(fd)
    return {"copy_bytes_s": 2 * PACE_PIECES * PIECE_BYTES / best_s}


def compress_look(daemon: Daemon, progress: Any, pid: int = 0) -> dict[str, Any]:
    """Return which `methods` of compression this node has, the best first; with `pid` how each does with that tree's
    memory.

    That is by a sample of at most 4 MiB (`sample_bytes`): `ratio` of what is left, and `bytes_s` of what goes in.
    """
    data = memoryview(_sample(pid) if pid else b"")
    methods: dict[str, dict[str, float]] = {}
    for name in compression.known():
        packer, started_s = compression.Packer(name), time.perf_counter()
        for at in range(0, len(data), PIECE_BYTES):
            packer(data[at : at + PIECE_BYTES])
        spent_s = max(1e-6, time.perf_counter() - started_s)
        ratio = packer.wire_bytes / max(1, packer.raw_bytes)
        methods[name] = {"ratio": ratio, "bytes_s": len(data) / spent_s} if data else {}
    return {"methods": methods, "sample_bytes": len(data)}


def _sample(pid: int) -> bytearray:
    """Pages of a tree's private memory, from all over it, in runs."""
    places = Places([task.pid for task in procs.tree(pid)]).kept
    step = max(PACKED_RUN, len(places) * PACKED_RUN // PACKED_PAGES)
    found = bytearray()
    for start in range(0, len(places), step):
        for task, address in places[start : start + PACKED_RUN]:
            with contextlib.suppress(OSError), open(f"/proc/{task}/mem", "rb", buffering=0) as memory:
                found += os.pread(memory.fileno(), PAGE_BYTES, address)
    return found


def fit(seen: list[tuple[float, float]]) -> tuple[float, float]:
    """Rate and set of `(seconds, distinct bytes)`: W (1 - exp(-D t / W)), through the first and the last look."""
    (t1, r1), (t2, r2) = seen[0], seen[-1]
    if r2 <= 0:
        return 0.0, 0.0
    if r1 <= 0 or r1 / t1 <= r2 / t2 * 1.02:  # as good as straight: the set is larger than what was seen
        return r2 / t2, r2 / t2 * 3600
    low, high = r2, r2 * 1000.0
    for _ in range(60):
        size = math.sqrt(low * high)
        rate = -math.log(max(1e-12, 1 - r2 / size)) * size / t2
        if size * (1 - math.exp(-rate * t1 / size)) > r1:
            low = size  # still too curved: the set is larger
        else:
            high = size
    return rate, size


class Places:
    """Addresses of present pages of private writable memory, in runs: all that there are, or a part from all over it.

    `total` counts them all. A workload may have terabytes of them, or of addresses without any: what is kept, and the
    time of looking, have a bound.
    """

    def __init__(self, pids: list[int]) -> None:
        self.kept: list[tuple[int, int]] = []
        self.total, self._every = 0, 1
        self._until_s = time.thread_time() + LOOK_CPU_S
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                self._task(pid)

    def _task(self, pid: int) -> None:
        with (
            open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines,
            open(f"/proc/{pid}/pagemap", "rb", buffering=0) as table,
        ):
            # The largest come last: those of terabytes hold little (shadows of a sanitizer, reserves of a runtime).
            for begin, end in sorted(_writable(lines), key=lambda one: one[1] - one[0]):
                for first in range(begin, end, ENTRIES * PAGE_BYTES):
                    if time.thread_time() > self._until_s:
                        return
                    self._block(pid, table.fileno(), first, min(end, first + ENTRIES * PAGE_BYTES))

    def _block(self, pid: int, table: int, first: int, end: int) -> None:
        data = os.pread(table, (end - first) // PAGE_BYTES * 8, first // PAGE_BYTES * 8)
        entries = struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])
        found = [first + number * PAGE_BYTES for number, entry in enumerate(entries) if entry & PRESENT]
        for start in range(0, len(found), PACKED_RUN):
            if (self.total + start) // PACKED_RUN % self._every == 0:
                self.kept += [(pid, address) for address in found[start : start + PACKED_RUN]]
        self.total += len(found)
        while len(self.kept) > MOST_PLACES:
            runs = (self.kept[at : at + PACKED_RUN] for at in range(0, len(self.kept), 2 * PACKED_RUN))
            self.kept = [place for run in runs for place in run]
            self._every *= 2


def _writable(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield the private writable mappings of /proc/PID/maps."""
    for line in lines:
        words = line.split(None, 5)
        if words[1][:2] == "rw" and words[1][3] == "p":
            begin, end = (int(word, 16) for word in words[0].split("-"))
            yield begin, end


def _hashes(sample: list[tuple[int, int]]) -> list[int]:
    """Return a checksum of each page; -1 for one that is gone."""
    found: list[int] = []
    files: dict[int, int] = {}
    try:
        for pid, address in sample:
            try:
                if pid not in files:
                    files[pid] = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
                found.append(zlib.crc32(os.pread(files[pid], PAGE_BYTES, address)))
            except OSError:
                found.append(-1)
    finally:
        for fd in files.values():
            os.close(fd)
    return found


def link_send(daemon: Daemon, progress: Any, seconds: float = 0.5, limit_bytes: int = 64 << 20) -> int:
    """Send random bytes to the other helper; returns how many."""
    read_fd, write_fd, over = _channel(daemon)
    sent, deadline = 0, time.monotonic() + seconds
    try:
        piece = _piece()
        while sent < limit_bytes and time.monotonic() < deadline:
            sent += os.write(write_fd, piece)
    except OSError as error:
        raise OpError("transfer", f"the other node is gone: {error}") from error
    finally:
        _close(read_fd, write_fd, over)
    return sent


def link_recv(daemon: Daemon, progress: Any) -> dict[str, float]:
    """Take what comes until it ends; answers `bytes` and the `seconds` they took, of its steady part."""
    read_fd, write_fd, over = _channel(daemon)
    marks: list[tuple[float, int]] = []
    got = 0
    try:
        while True:
            piece = os.read(read_fd, 1 << 20)
            if not piece:
                break  # it may come long after the last byte: with the end of two ssh connections
            got += len(piece)
            marks.append((time.monotonic(), got))
    finally:
        _close(read_fd, write_fd, over)
    return steady(marks)


def steady(marks: list[tuple[float, int]]) -> dict[str, float]:
    """`bytes` and `seconds` behind the first part of `(time, bytes so far)`: there buffers fill, and windows grow.

    On a link of 1 Gbit/s the whole half second told 70 to 90 MB/s, of 119 that a transfer has then (2026-11-29).
    """
    if len(marks) < 2:
        return {"bytes": marks[0][1] if marks else 0, "seconds": 0.0}
    start_s = marks[0][0] + WARM_UP * (marks[-1][0] - marks[0][0])
    at_s, before = [mark for mark in marks[:-1] if mark[0] <= start_s][-1]
    return {"bytes": marks[-1][1] - before, "seconds": marks[-1][0] - at_s}


def _channel(daemon: Daemon) -> tuple[int, int, threading.Event]:
    if not daemon.probe_ready.wait(PROBE_WAIT_S) or daemon.probe is None:
        raise OpError("protocol", "no connection was opened")
    daemon.probe_ready.clear()
    return (*daemon.probe, daemon.probe_over)


def _close(read_fd: int, write_fd: int, over: threading.Event) -> None:
    os.close(write_fd)
    os.close(read_fd)
    over.set()


OPS: dict[str, Callable[..., Any]] = {
    "dirty_rate": dirty_rate,
    "pace": pace,
    "compress_look": compress_look,
    "link_send": link_send,
    "link_recv": link_recv,
}
