"""Files that decide something: written whole, flushed to disk, created once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from typing import Any, Optional

from reberth.node.errors import OpError
from reberth.node.system import formats


def boottime_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds: it goes on while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def sync_dir(path: str) -> None:
    """Flush a directory, so that a name in it survives a crash."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: str, text: str, mode: int = 0o600) -> None:
    """Write a file beside its name, flush it, then rename: readers see all of it or none."""
    beside = f"{path}.new"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(fd, text.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def write_all(fd: int, data: bytes) -> None:
    """Write every byte: a disk that is nearly full takes a part without complaint, and says ENOSPC at the next try."""
    view = memoryview(data)
    while view:
        taken = os.write(fd, view)
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[taken:]


def read_text(path: str, limit_bytes: int = 1 << 20) -> str | None:
    """Return the file's text, or None when there is none; never follows a link."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, limit_bytes).decode("utf-8", "replace")
    finally:
        os.close(fd)


def decide_once(directory: str, name: str, value: str, values: tuple[str, ...]) -> str:
    """Create the deciding file `name` with `value`, first writer wins; answer what it says now.

    The ballots lie ready (`name.VALUE`), so that the hook script can vote by link(2) alone when the helper is gone.
    Raises OpError `unreadable` when the file holds none of `values`: then no one may act on it. Raises OSError when the
    directory cannot be flushed. A kernel tells of that once only, and the next flush would succeed though nothing is on
    the disk: so what this call has created is taken away again, and what stays all the same is never acted on.
    """
    if value not in values:
        raise OpError("bad-argument", f"{name} cannot be {value!r}")
    ballot, path = os.path.join(directory, f"{name}.{value}"), os.path.join(directory, name)
    ours = False
    with contextlib.suppress(FileExistsError):
        os.link(ballot, path)
        ours = True
    _flush(directory, path, ours)
    now = decided(directory, name, values)
    if now is None:
        raise OpError("unreadable", f"{name} cannot be read in {directory}")
    return now


_unflushed: set[str] = set()  # deciding files that a failed flush has left behind


def _flush(directory: str, path: str, ours: bool) -> None:
    if path in _unflushed:
        raise OSError(errno.EIO, "it was never flushed to disk", path)
    try:
        sync_dir(directory)
    except OSError:
        _unflushed.add(path)
        if ours:
            with contextlib.suppress(OSError):
                os.unlink(path)
                _unflushed.discard(path)
        raise


def decided(directory: str, name: str, values: tuple[str, ...]) -> str | None:
    """Return what the deciding file says, None when nothing is decided; raises OpError `unreadable`."""
    try:
        text = read_text(os.path.join(directory, name))
    except OSError as error:
        raise OpError("unreadable", f"{name} cannot be read in {directory}: {error}") from error
    if text is None:
        return None
    word = text.strip()
    if word not in values:
        raise OpError("unreadable", f"{name} in {directory} holds {word[:40]!r}")
    return word


def lay_ballots(directory: str, name: str, values: tuple[str, ...]) -> None:
    """Write the ballots of a deciding file, flushed, before anything can need them."""
    for value in values:
        write_whole(os.path.join(directory, f"{name}.{value}"), value + "\n")
    sync_dir(directory)


RESERVE, RESERVE_BYTES = "reserve", 64 << 10


def lay_reserve(directory: str, size_bytes: int = RESERVE_BYTES) -> None:
    """Blocks kept for a disk that fills up while the workload is frozen: the way back must be journaled even then."""
    write_whole(os.path.join(directory, RESERVE), "." * size_bytes)


def give_reserve(directory: str) -> None:
    """Give these blocks back to the disk, for what must be written now."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(directory, RESERVE))


class Journal:
    """JSON lines, each flushed to disk before the step it announces; `format` is in the first one."""

    FORMAT = formats.FORMAT

    def __init__(self, path: str) -> None:
        self.path = path
        self._torn = False
        self.failure: Optional[OSError] = None  # the last that the disk has answered to a record
        self.records: list[dict[str, Any]] = self._read(path)
        self._fd = -1  # opened by the first record: who only reads holds nothing
        self._lock = threading.Lock()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def _append(self, data: bytes) -> None:
        """Append and flush; OSError when not all of it got to disk (a full one takes a part without complaint)."""
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
        # What a crash or a full disk cut off stays a line of its own, and no record: it was never acted on.
        data, self._torn = (b"~\n" if self._torn else b"") + data, True
        before = os.fstat(self._fd).st_size
        if not self._fits(data):
            give_reserve(os.path.dirname(self.path))
            if not self._fits(b"~\n" + data):
                raise OSError(errno.ENOSPC, "the journal is cut off", self.path)
        try:
            os.fsync(self._fd)
        except OSError:  # whole in the file, but no one acts on it: it must not be read back as something that happened
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, before)
            raise
        self._torn = False

    def _fits(self, data: bytes) -> bool:
        try:
            return os.write(self._fd, data) == len(data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False

    def _read(self, path: str) -> list[dict[str, Any]]:
        """Return all whole records; a last line cut off by a crash never happened."""
        found: list[dict[str, Any]] = []
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._torn = not line.endswith("\n")
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict) and "event" in record and line.endswith("\n"):
                        found.append(record)
        return found

    def readable(self) -> None:
        """Take the records as this version means them; raises OpError `newer-format` for what only a later one does."""
        self.records = formats.translated(self.records, os.path.basename(os.path.dirname(self.path)))

    def write(self, event: str, **data: Any) -> dict[str, Any]:
        """Append one record and flush it; OSError when the disk does not take it: then it never happened."""
        return self._record(event, data, must=True)

    def tell(self, event: str, **data: Any) -> dict[str, Any]:
        """Append a record of the way back, which a broken disk must not stop: there it is kept in memory alone.

        Only for what is safe to be done once more by a reader who does not find it.
        """
        return self._record(event, data, must=False)

    def _record(self, event: str, data: dict[str, Any], *, must: bool) -> dict[str, Any]:
        with self._lock:
            stamps = {"boot_ns": boottime_ns(), "wall_s": time.time()}
            record: dict[str, Any] = {"seq": len(self.records), "event": event, **stamps, **data}
            try:
                self._append((json.dumps(record, separators=(",", ":")) + "\n").encode())
            except OSError as error:
                self.failure = error
                if must:
                    raise
            self.records.append(record)
            return record

    def last(self, *events: str) -> dict[str, Any] | None:
        """Return the newest record of one of these events."""
        fitting: list[dict[str, Any]] = [record for record in self.records if record["event"] in events]
        return fitting[-1] if fitting else None

    def has(self, event: str) -> bool:
        """Tell whether this event was ever written."""
        return self.last(event) is not None
