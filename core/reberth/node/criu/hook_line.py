"""The line between a helper and its action script: two FIFOs in the run's private directory (0700, root's own).

No pid stands in the script, so no process that gets a dead helper's pid is ever written to or believed. The ends that
the helper holds are the sign of its life: the script opens each FIFO both ways first, which never blocks, then the way
that it needs, and gives the first up. Without a helper there is no reader then (a write fails) and no writer (end of
file at once); a helper that dies later means the same.
"""

from __future__ import annotations

import contextlib
import os

# `$line` is the path without its ending. A name that is gone must not be made anew by `<>`: so it is looked at before.
OPEN = """\
[ -p "$line.report" ] && [ -p "$line.answer" ] || alone
command exec 6<>"$line.report" 7<>"$line.answer" || alone
command exec 8>"$line.report" 9<"$line.answer" 6>&- 7>&- || alone
"""


class HookLine:
    """Both FIFOs of one tool, and the helper's descriptors of them."""

    def __init__(self, run_dir: str, name: str) -> None:
        """Make them under a name that no script of an earlier tool knows, and hold all four ends."""
        self.path = os.path.join(run_dir, f"{name}-{os.urandom(4).hex()}")
        self.report_r, self.report_w = _made(f"{self.path}.report")
        self.answer_r, self.answer_w = _made(f"{self.path}.answer")

    def close(self) -> None:
        """Give up all ends but the one that is read, which ends with this; a script that comes later finds nothing."""
        for ending in ("report", "answer"):
            with contextlib.suppress(OSError):  # the run may have ended, and its directory moved
                os.unlink(f"{self.path}.{ending}")
        for fd in (self.report_w, self.answer_r, self.answer_w):
            os.close(fd)


def _made(path: str) -> tuple[int, int]:
    os.mkfifo(path, 0o600)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    writer = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.set_blocking(reader, True)
    return reader, writer
