"""Which files a set of processes may write without a trace in the file's times: mapped shared, or open for writing.

Used right at the freeze, so it costs one lstat per descriptor and one read per process. Files are told by (device,
inode), never by name: the processes may live in another mount namespace.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from typing import Optional

from reberth.node.tree.directories import Dirs
from reberth.node.tree.snapshot import Snapshot
from reberth.node.tree.walk import Inode, scan
from reberth.node.tree.wire import from_os_error, text

# Every shared mapping of a file, also one that is read-only now: mprotect may have come after the write.
_SHARED = re.compile(rb"^([0-9a-f]+-[0-9a-f]+) ..[-x]s \S+ \S+ [1-9]", re.MULTILINE)


def open_inodes(pids: Collection[int]) -> frozenset[Inode]:
    """(device, inode) of all regular files that these processes map shared or hold open for writing.

    A process that is gone counts for nothing. TreeError without the rights over a process (root has them).
    """
    found: set[Inode] = set()
    for pid in pids:
        try:
            _mapped(pid, found)
            _held(pid, found)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError as error:
            raise from_os_error(error, f"process {pid}") from error
    return frozenset(found)


def always_paths(pids: Collection[int], root: str, snapshot: Optional[Snapshot] = None) -> frozenset[str]:
    """Return the same as paths relative to `root`; with the last pass's snapshot without a walk over the tree.

    `send_tree(always=...)` takes what `open_inodes` gives just as well, and that is faster still.
    """
    inodes = open_inodes(pids)
    if not inodes:
        return frozenset()
    if snapshot is None:
        with Dirs(root) as dirs:
            entries = scan(dirs, 0, cross=True).entries
    else:
        entries = snapshot.entries
    return frozenset(text(path) for path, entry in entries.items() if entry.inode in inodes)


def _mapped(pid: int, found: set[Inode]) -> None:
    with open(f"/proc/{pid}/maps", "rb", buffering=0) as lines:
        maps = lines.read()
    folder = f"/proc/{pid}/map_files/"
    for match in _SHARED.finditer(maps):
        # Not the numbers in maps: on overlay they are those of the layer below. Addresses there have no leading zeros.
        first, last = match.group(1).decode().split("-")
        try:
            st = os.stat(f"{folder}{int(first, 16):x}-{int(last, 16):x}")
        except FileNotFoundError:  # unmapped since
            continue
        if stat.S_ISREG(st.st_mode):
            found.add((st.st_dev, st.st_ino))


def _held(pid: int, found: set[Inode]) -> None:
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        try:
            # The link's own mode tells how the file is open (proc(5)): cheaper than reading fdinfo.
            if not os.lstat(path).st_mode & stat.S_IWUSR:
                continue
            st = os.stat(path)
        except FileNotFoundError:  # closed since
            continue
        if stat.S_ISREG(st.st_mode):
            found.add((st.st_dev, st.st_ino))
