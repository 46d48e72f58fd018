"""What the daemons' and criu's words mean, in plain ones; each was seen, or read in LXD 5.0.2 and liblxc 6.0.4."""

from __future__ import annotations

KNOWN = (
    ("apparmor LSM specified but apparmor not supported",
     "criu on the target sees no AppArmor", "mount securityfs there and remove /run/criu.kdat"),
    ("lxc.console.path configured on source host but not target",
     "the container has a console", 'raw.lxc: "lxc.console.path = none", and restart it'),
    ("Failed getting freezer path",
     "it was restored before, and this liblxc cannot dump it again", "restart the container once"),
    ("Can't open file", "a file cannot be opened as the container's user", "is it unprivileged with idmapped mounts?"),
    ("Instance is busy running", "the daemon still waits for an earlier attempt", "wait a minute, or restart it"),
    ("No space left on device", "a disk is full", "the daemon's TMPDIR holds the images: /tmp on both nodes"),
    ("no copy was ever built", "they reported success, but nothing was restored", "see the log of the target's daemon"),
    ("failed walking", "criu looks for the container in every cgroup hierarchy", "see docs/how-to/lxd.md"),
    ("migration dump failed", "criu could not dump it", "reberth explain the migration_dump log of the source"),
    ("migration restore failed", "criu could not restore it", "see the log of the target's daemon"),
)  # fmt: skip


def explain(words: str) -> tuple[str, str]:
    """Cause and remedy; the first known words count, else the last line that was said."""
    for known, cause, remedy in KNOWN:
        if known in words:
            return cause, remedy
    lines = [line for line in words.splitlines() if line.strip()]
    return (lines[-1][-300:] if lines else "no reason was given"), "see the logs of both daemons"
