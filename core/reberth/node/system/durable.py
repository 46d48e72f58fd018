"""Files that decide something: written whole, flushed to disk, created once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from typing import Any

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
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(beside, path)


def read_text(path: str, limit_bytes: int = 1 << 20) -> str | None:
    """The file's text, or None when there is none; never follows a link."""
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
    Raises OpError `unreadable` when the file holds none of `values`: then nobody may act on it.
    """
    if value not in values:
        raise OpError("bad-argument", f"{name} cannot be {value!r}")
    ballot = os.path.join(directory, f"{name}.{value}")
    with contextlib.suppress(FileExistsError):
        os.link(ballot, os.path.join(directory, name))
    sync_dir(directory)
    now = decided(directory, name, values)
    if now is None:
        raise OpError("unreadable", f"{name} cannot be read in {directory}")
    return now


def decided(directory: str, name: str, values: tuple[str, ...]) -> str | None:
    """What the deciding file says, None when nobody decided; raises OpError `unreadable`."""
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


def lay_reserve(directory: str) -> None:
    """Blocks kept for a disk that fills up while the workload is frozen: the way back must be journaled even then."""
    write_whole(os.path.join(directory, RESERVE), "." * RESERVE_BYTES)


class Journal:
    """JSON lines, each flushed to disk before the step it announces; `format` is in the first one."""

    FORMAT = formats.FORMAT

    def __init__(self, path: str) -> None:
        self.path = path
        self._torn = False
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
        if not self._fits(data):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(os.path.dirname(self.path), RESERVE))
            if not self._fits(b"~\n" + data):
                raise OSError(errno.ENOSPC, "the journal is cut off", self.path)
        os.fsync(self._fd)
        self._torn = False

    def _fits(self, data: bytes) -> bool:
        try:
            return os.write(self._fd, data) == len(data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False

    def _read(self, path: str) -> list[dict[str, Any]]:
        """All whole records; a last line cut off by a crash never happened."""
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
        """Append one record and flush it."""
        with self._lock:
            stamps = {"boot_ns": boottime_ns(), "wall_s": time.time()}
            record: dict[str, Any] = {"seq": len(self.records), "event": event, **stamps, **data}
            self._append((json.dumps(record, separators=(",", ":")) + "\n").encode())
            self.records.append(record)
            return record

    def last(self, *events: str) -> dict[str, Any] | None:
        """The newest record of one of these events."""
        fitting: list[dict[str, Any]] = [record for record in self.records if record["event"] in events]
        return fitting[-1] if fitting else None

    def has(self, event: str) -> bool:
        """Whether this event was ever written."""
        return self.last(event) is not None
