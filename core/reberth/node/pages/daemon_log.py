"""What CRIU's daemon says at its most talkative, counted as it is said and kept within bounds.

The count of the pages needs to know what the workload gave back before it came, and only the debug lines tell. A daemon
writes three of them for each page fault, into a file that lies in the node's memory: a gigabyte in a long fill.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import threading

HEAD_BYTES, ERROR_BYTES, TAIL_BYTES = 1 << 20, 1 << 18, 1 << 18
READ_BYTES = 1 << 20
F_SETPIPE_SZ = 1031
ALL = 1 << 62
# Lines of criu/uffd.c at -v4 (4.2.1, read 2026-11-25).
DROPPED = re.compile(rb"uffd: \d+-\d+: (?:(?:REMOVE|UNMAP): [0-9a-f]+\(([0-9a-f]+)\)|EXIT)")
ERROR = re.compile(rb"^.*(?:Error|Warn).*\n", re.MULTILINE)


class DaemonLog:
    """A named pipe for the daemon's log and the file beside it: its begin, then its errors, then its end."""

    def __init__(self, pipe: str, path: str) -> None:
        self.path = path
        self._pipe = pipe
        self._dropped_bytes, self._exits = 0, False
        self._rest = self._tail = b""  # a line that is not whole yet, and what came last
        self._left = [HEAD_BYTES, ERROR_BYTES]
        os.mkfifo(pipe, 0o600)
        self._fd = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # our own writer: criu never meets no reader
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._fd, F_SETPIPE_SZ, READ_BYTES)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._wake_r, self._wake_w = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def dropped_pages(self) -> int:
        """Pages that the workload gave back before they came, as far as it was said; all of them for an exit."""
        return ALL if self._exits else self._dropped_bytes // os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """Take what is left in the pipe, and write down the end; nothing the second time."""
        if self._thread.is_alive():
            os.write(self._wake_w, b"x")
        self._thread.join()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        ending = False
        while not ending:
            ending = self._wake_r in dict(poll.poll())
            with contextlib.suppress(BlockingIOError):
                while data := os.read(self._fd, READ_BYTES):
                    self.take(data)
        with contextlib.suppress(OSError):
            os.write(self._file, b"...\n" + self._tail if self._tail else b"")
        with contextlib.suppress(OSError):
            os.unlink(self._pipe)
        for fd in (self._fd, self._file, self._wake_r, self._wake_w):
            os.close(fd)

    def take(self, data: bytes) -> None:
        """Count what was said, and keep of it what is to be kept."""
        whole, _, self._rest = (self._rest + data).rpartition(b"\n")
        if len(self._rest) > READ_BYTES:
            self._rest = b""  # no line of criu's
        for found in DROPPED.finditer(whole):
            if found[1]:
                self._dropped_bytes += int(found[1], 16)
            else:
                self._exits = True
        with contextlib.suppress(OSError):  # a full disk: the count is what matters
            self._keep(whole + b"\n" if whole else b"")

    def _keep(self, text: bytes) -> None:
        head, rest = text[: self._left[0]], text[self._left[0] :]
        self._left[0] -= os.write(self._file, head)
        if not rest:
            return
        for line in ERROR.findall(rest):
            if len(line) <= self._left[1]:
                self._left[1] -= os.write(self._file, line)
        self._tail = (self._tail + rest)[-TAIL_BYTES:]
