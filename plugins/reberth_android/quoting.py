"""The one place where words become a line for a shell: `adb shell` joins its arguments and hands them to the phone's.

Nothing else in this plugin builds such a line. A shell of the phone parses fixed texts of ours only; names, keys and
paths reach it as arguments of these, quoted here.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from reberth_hooks import UsageError

# Every device text begins so: it stops at the first failure, and what it writes is private until it says otherwise
# (adbd gives its children umask 0). `flush` puts files on the disk: an old toybox can flush only all of it.
PRELUDE = """\
set -eu; umask 077; export PATH=/system/bin:/system/xbin:$PATH; unset LC_ALL
flush() { fsync "$@" 2>/dev/null || sync; }
"""
# The last thing that a text says: without it the connection broke, whatever exit status adb made of that.
DONE = "reberth: done"


def device_line(text: str, words: Sequence[str] = ()) -> str:
    """One word for `adb shell` that runs `text` with `words` as $1, $2, ...; UsageError for what no line can hold."""
    for word in words:
        if "\0" in word:
            raise UsageError(f"{word!a} has a NUL in it, which no argument can have")
    return shlex.join(["sh", "-c", f"{PRELUDE}{text}\nprintf '%s' '{DONE}'", "sh", *words])
