"""What the daemons' rsync overlooks between a first sync and the last one, and the copy dated back against it.

rsync takes a file of the same size and the same second for the same (seen with LXD 5.0.2, 2026-11-28; newer daemons
tell it to compare nanoseconds, *only read*): one that is written in the second in which it was copied, and not after
that, would be lost. A copy whose date is another one is compared by content.
"""

from __future__ import annotations

from reberth_hooks import CommandError, Move
from reberth_lxd.api.client import Daemon

# A write by mmap may leave the time of its file as it was until the kernel has written the page back (30 s, and 5 s).
MARGIN_S = 120
LIMIT_S = 600.0


def wall_s(move: Move) -> float:
    """Now, by the clock that dates the container's files."""
    return float(move.source.run(["date", "+%s"]).out)


def date_back(move: Move, target: Daemon, begun_s: float) -> bool:
    """Age the copy of every file that may have changed since the sync began, so that the last one sends it for certain.

    False where the copy has no directory on the node.
    """
    root = _root(move, target)
    if not root:
        return False
    newer = f"@{int(begun_s) - MARGIN_S}"
    age = ["-exec", "touch", "--no-create", "--date=@0", "--", "{}", "+"]
    move.target.run(["find", root, "-xdev", "-type", "f", "-newermt", newer, *age], timeout_s=LIMIT_S)
    return True


def before_dump(move: Move, target: Daemon, begun_s: float) -> bool:
    """When criu waits to begin on the source: date the copy back, and let it begin; whether that was done.

    Raises CommandError where the copy's files cannot be reached: then the container goes on where it is.
    """
    if not move.source.call("gate_paused"):
        return False
    if not date_back(move, target, begun_s):
        text = "the copy's files cannot be reached on the target, and its daemon's rsync may overlook a late write"
        raise CommandError(text, hint="--mode near-live stops the container and then sends all that is there")
    move.source.call("gate_begin")
    return True


def _root(move: Move, target: Daemon) -> str:
    """Return where the copy's files are, as its daemon sees them; empty where a volume is not mounted."""
    details, pid = move.plan.details, int(target.environment.get("server_pid") or 0)
    # Not by way of containers/NAME, a link that the daemon makes when the whole copy is there.
    volume = f"storage-pools/{details['pool']}/containers/{move.plan.target_name}/rootfs"
    place = f"/proc/{pid}/root{state_dir(details['sockets'][1])}/{volume}"
    return place if pid and move.target.call("stats", paths=[place])[0] else ""


def state_dir(socket: str) -> str:
    """Return where a daemon keeps its containers, by its socket."""
    return "/var/lib/incus" if socket.startswith("/run/incus") else socket.rpartition("/")[0]
