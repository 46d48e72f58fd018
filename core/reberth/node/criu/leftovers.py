"""What a CRIU that was killed in a restore leaves: mounts in its own directory, and an empty directory in /tmp.

Seen with CRIU 4.2.1: `.criu.cgyard.*` below the images, a tmpfs with the whole cgroup tree mounted in it, and
`/tmp/.criu.mntns.*`; with runc 1.1.15 `criu-root` in its record of the container, the bundle's root filesystem
mounted a second time. A plain removal would walk into the mounted cgroups, or into the user's files.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat

from reberth.node.errors import OpError
from reberth.node.system import procs, spawn

OURS = re.compile(r"\.criu\.|criu-root\Z")
ROOTS = "/tmp/.criu.mntns.*"


def mounts_below(path: str) -> list[str]:
    """Return where something is mounted inside a directory, innermost first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            place = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[4])
            if place.startswith(path.rstrip("/") + "/"):
                found.append(place)
    return found[::-1]


def clear(path: str) -> None:
    """Unmount what CRIU left in a directory of ours; raises OpError `leftover` when somebody else mounted there."""
    for place in mounts_below(path):
        first = place[len(path.rstrip("/")) + 1 :].split("/")[0]
        if not OURS.match(first):
            raise OpError("leftover", f"{place} is a mount: {path} is not removed", hint=f"umount {place}")
        done = spawn.run(["umount", "--lazy", "--", place], timeout_s=10.0)
        if done["code"]:
            raise OpError("leftover", f"{place} cannot be unmounted: {done['err'].strip()[-200:]}")


def roots() -> list[str]:
    """Return CRIU's directories in /tmp; each belongs to a running restore or is what a killed one left.

    Anyone may make such names there: only what is a directory of root's counts.
    """
    return sorted(path for path in glob.iglob(ROOTS) if _is_roots(path))


def _is_roots(path: str) -> bool:
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        return stat.S_ISDIR(found.st_mode) and found.st_uid == 0
    return False


def sweep(known: list[str]) -> None:
    """Remove those that came since `known`, unless a CRIU works here: removing one in use would unmount it there."""
    new = [path for path in roots() if path not in known]
    if new and not procs.criu_works():
        for path in new:
            with contextlib.suppress(OSError):
                os.rmdir(path)
