"""What is mounted where, and whether a file system's times can be trusted to show every change."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

# A write through a mapping shows in mtime, at the latest when the page is first dirtied. Not so on tmpfs (never), not
# surely on zfs (at write-back) nor where a server or a FUSE daemon keeps the time: everything that is not listed here.
_TIMES_TELL = frozenset({b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"f2fs", b"bcachefs", b"erofs", b"squashfs"})
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_MAX_LAYERS = 4


class Mount(NamedTuple):
    """One line of mountinfo."""

    number: int
    point: bytes
    fstype: bytes
    options: bytes  # of the super block


def _plain(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found.group(1), 8) & 0xFF]), field)


def mounts() -> list[Mount]:
    """Return all mounts of this mount namespace."""
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            left, _, right = line.partition(b" - ")
            head, tail = left.split(b" "), right.rstrip(b"\n").split(b" ")
            found.append(Mount(int(head[0]), _plain(head[4]), tail[0], tail[2] if len(tail) > 2 else b""))
    return found


def mount_id(fd: int) -> int:
    """Return the number of the mount that a descriptor was opened through."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
        for line in lines:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    return -1


def below(root: str, table: list[Mount]) -> frozenset[bytes]:
    """Mount points under `root`, relative to it."""
    base = os.fsencode(os.path.realpath(root)).rstrip(b"/") + b"/"
    return frozenset(
        mount.point[len(base) :] for mount in table if mount.point.startswith(base) and mount.point != base
    )


def times_tell(fd: int, table: list[Mount], layers: int = _MAX_LAYERS) -> bool:
    """Tell whether changed content below `fd` shows in its times; of an overlay its upper directory decides.

    When in doubt no, which costs reading and is never wrong.
    """
    number = mount_id(fd)
    mount = next((mount for mount in table if mount.number == number), None)
    if mount is None:
        return False
    if mount.fstype != b"overlay":
        return mount.fstype in _TIMES_TELL
    upper = re.search(rb"(?:^|,)upperdir=((?:[^,\\]|\\.)+)", mount.options)
    if upper is None:
        return b"upperdir=" not in mount.options  # nothing can be written
    if layers == 0:
        return False
    try:
        upper_fd = os.open(_plain(upper.group(1)), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return times_tell(upper_fd, table, layers - 1)
    finally:
        os.close(upper_fd)
