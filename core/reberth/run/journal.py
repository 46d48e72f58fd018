"""The controller's journals: one directory a run under the state directory, with journal, report and kept logs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reberth.config.paths import state_dir
from reberth.node.errors import OpError
from reberth.node.system.durable import Journal as Lines
from reberth.node.system.durable import give_reserve
from reberth.node.system.procs import alive, task
from reberth.run import crash
from reberth_hooks import Exit, ReberthError, RefusedError, UsageError

if TYPE_CHECKING:
    from reberth.report.report import Report


def runs_dir() -> Path:
    """Return where runs are kept; nothing is made here."""
    return state_dir() / "runs"


def make_runs_dir() -> Path:
    """Make the folder of the runs, 0700, and see that it can be written; UsageError that names it."""
    path = runs_dir()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unusable(path, error) from error
    return path


def unusable(path: Path, error: OSError) -> ReberthError:
    """Return the error of a state folder that cannot be used.

    By the words of the call, or with a full or broken disk.
    """
    reason = error.strerror or str(error)
    text = f"the state folder {str(path)!a} cannot be used: {reason}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return RefusedError(text, hint="free space on its disk, or set XDG_STATE_HOME to a folder on another one")
    return UsageError(text, hint="make it yours to write, or set XDG_STATE_HOME to another folder")


def runs() -> list[str]:
    """Ids of all runs that this controller knows, newest first; UsageError when the folder cannot be read."""
    path = runs_dir()
    try:
        return sorted((p.name for p in path.iterdir() if (p / "journal.jsonl").exists()), reverse=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unusable(path, error) from error


def run_dir(run_id: str) -> Path:
    """Return the directory of a known run, or UsageError."""
    path = runs_dir() / run_id
    try:
        known = "/" not in run_id and (path / "journal.jsonl").exists()
    except OSError as error:
        raise unusable(path.parent, error) from error
    if not known:
        raise UsageError(f"there is no run {run_id!a}", hint="to see them: reberth history")
    return path


class DiskError(ReberthError):
    """The controller's disk does not take a record: the run goes back, which needs none."""

    code = "disk"


class NewerFormatError(ReberthError):
    """A later version of reberth began the run; it stays as it is."""

    code, exit_code = "newer-format", Exit.HELD


class Journal:
    """The journal of one run: each record is on disk before the step that it announces.

    From `settle` on a disk that takes nothing stops nothing: what both nodes say decides, and `recover` asks them anew.
    """

    def __init__(self, run_id: str) -> None:
        self.dir = runs_dir() / run_id
        self._lines = Lines(str(self.dir / "journal.jsonl"))
        self._settling = False
        self._lock = -1

    def __del__(self) -> None:
        self.release()

    def write(self, event: str, **data: Any) -> None:
        """Append a record; DiskError when the disk does not take it, unless the run is being settled."""
        crash.here(event, len(self.records), ":before")
        if self._settling:
            self._lines.tell(event, **data)
        else:
            try:
                self.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lines.write(event, **data)
            except OSError as error:
                raise self._broken(error) from error
        crash.here(event, len(self.records) - 1)

    def _broken(self, error: OSError) -> DiskError:
        text = f"the journal {str(self.dir)!a} cannot be written: {error.strerror or error}"
        return DiskError(text, hint="free space on that disk, or set XDG_STATE_HOME to a folder on another one")

    def settle(self) -> None:
        """From now on the run only comes to its end."""
        self._settling = True

    @property
    def failure(self) -> str:
        """Return what the disk said last instead of taking a record, else empty."""
        error = self._lines.failure
        return f"{str(self.dir)!a}: {error.strerror or error}" if error else ""

    def claim(self) -> None:
        """Take the run's lock and say which process drives it; UsageError that names the process that has the lock.

        The lock is the kernel's, of the journal's own file: it needs no space, and it ends with the process.
        """
        if self._lock < 0:
            path = self.dir / "journal.jsonl"
            try:
                fd = os.open(path, (os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY) | os.O_CLOEXEC)
            except OSError as error:
                raise self._broken(error) from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise self.driven() from None
            except OSError:  # a filesystem without locks: the record below is all there is
                pass
            self._lock = fd
            now = Lines(str(path))  # another process may have driven the run, and ended, since this one has read it
            if len(now.records) > len(self.records):
                self._lines = now
        me = task(os.getpid())
        self.write("controller", pid=os.getpid(), start_ticks=me.start_ticks if me else 0)

    def driven(self) -> UsageError:
        """Return the error for a second process that would drive this run."""
        holder = Journal(self.dir.name).controller()
        who = f"process {holder}" if holder else "another process"
        hint = f"wait for its end, or end it: reberth abort {self.dir.name}"
        return UsageError(f"run {self.dir.name} is driven by {who}", hint=hint)

    def release(self) -> None:
        """Give the lock up: this process is through with the run."""
        fd, self._lock = getattr(self, "_lock", -1), -1
        if fd >= 0:
            os.close(fd)

    @property
    def records(self) -> list[dict[str, Any]]:
        """Return all records so far."""
        return self._lines.records

    def last(self, *events: str) -> dict[str, Any] | None:
        """Return the newest record of these events."""
        return self._lines.last(*events)

    def readable(self) -> None:
        """Take the records as this version means them; raises NewerFormatError for what only a later one does."""
        try:
            self._lines.readable()
        except OpError as error:
            raise NewerFormatError(error.message, hint=error.hint) from error

    def controller(self) -> int:
        """Pid of the process that drives this run now, 0 when none does."""
        record = self.last("controller")
        return int(record["pid"]) if record and alive(record["pid"], record["start_ticks"]) else 0

    def keep_logs(self, node: str, logs: dict[str, str]) -> None:
        """Keep the tools' logs of one end beside the report, as far as the disk takes them."""
        place = self.dir / "logs"
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, exist_ok=True)
            for name, text in logs.items():
                path = place / f"{node}-{Path(name).name}"
                path.touch(mode=0o600)
                path.write_text(text, encoding="utf-8", errors="backslashreplace")

    def keep_report(self, report: Report) -> str:
        """Write the report, at need in place of the reserve; answers why not, else the empty word."""
        path = self.dir / "report.json"
        try:
            report.save(path)
        except OSError:
            give_reserve(str(self.dir))
            try:
                report.save(path)
            except OSError as error:
                return f"the report could not be written to {str(path)!a}: {error.strerror or error}"
        return ""
