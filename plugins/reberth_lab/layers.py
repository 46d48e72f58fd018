"""Optional parts of the nodes (`lab up --with NAME`): a layer of packages over the root filesystem, made once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reberth_lab.chroot import Chroot
from reberth_lab.locks import locked
from reberth_lab.proc import LabError, Say
from reberth_lab.rootfs import APT_OPTIONS, SUITE

# All mounts end with the program's own mount namespace.
IN_LAYER = (
    'mount -t overlay lab -o "$1" "$2" && mount -t proc proc "$2/proc" && mount -t tmpfs tmp "$2/tmp" &&'
    ' at=$2 && shift 2 && exec chroot "$at" "$@"'
)
READY = "layer.json"


@dataclass(frozen=True)
class Part:
    """What a name after `--with` stands for: packages, and how much they download.

    `with_kernel` are installed into the disk of virtual nodes, after the kernel's headers: modules that are built.
    """

    packages: tuple[str, ...]
    download: str
    with_kernel: tuple[str, ...] = ()
    has_daemon: bool = False  # something is to be started on the nodes


# For pools of that kind, in virtual nodes alone, whose kernel has dm-thin; their volumes are ext4.
LVM = ("lvm2", "thin-provisioning-tools", "e2fsprogs")
PARTS: Mapping[str, Part] = {
    "lxd": Part(
        ("lxd", "lxd-client", "busybox-static", "btrfs-progs", "squashfs-tools", *LVM), "about 45 MB", has_daemon=True
    ),
    "incus": Part(
        ("incus-base", "incus-client", "busybox-static", "btrfs-progs", "squashfs-tools"),
        "about 40 MB",
        has_daemon=True,
    ),
    # Login shells that people have, and sudo: for the tests of ways to log in.
    "shells": Part(("fish", "zsh", "tcsh", "ksh", "sudo"), "about 15 MB"),
    "zfs": Part((), "about 100 MB, and 10 minutes to build its modules", ("zfs-dkms", "zfsutils-linux")),
}


def check(names: Sequence[str], own_kernel: bool = True) -> None:
    """Raises LabError for a part that there is not, or not for nodes without `own_kernel`."""
    for name in names:
        if name not in PARTS:
            raise LabError(f"there is no part {name!r} of the lab", f"one of: {', '.join(PARTS)}")
        if PARTS[name].with_kernel and not own_kernel:
            raise LabError(f"{name} is modules of the kernel", "--kind vm: nodes with a kernel of their own")


def ensure(name: str, cache: Path, root: Path, say: Say) -> Path:
    """Return the layer's directory, made now if it must be; raises LabError when the packages cannot be had."""
    part = PARTS[name]
    words = [SUITE, *part.packages, root.parent.name]
    home = cache / f"layer-{name}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]}"
    with locked(cache / "layers.lock", wait_s=1800, remove=False):
        if not (home / READY).exists():
            _build(name, home, root, say)
    return home / "layer"


def is_of_use(home: Path) -> bool:
    """Tell whether a layer is whole and its root filesystem is there: nodes of another checkout's lab may run on it."""
    try:
        root = json.loads((home / READY).read_text(encoding="utf-8"))["root"]
    except (OSError, ValueError, KeyError):
        return False  # of a build that was killed
    return Path(root).is_dir()


def _build(name: str, home: Path, root: Path, say: Say) -> None:
    part, started = PARTS[name], time.monotonic()
    for old in home.parent.glob(f"layer-{name}-*"):
        if not is_of_use(old):
            shutil.rmtree(old, ignore_errors=True)
    for directory in ("layer", "work", "at"):
        (home / directory).mkdir(parents=True)
    say(f"adding {name} to the nodes: {', '.join(part.packages)}, download {part.download}")
    chroot = Chroot(home / "at", home / "build.log")
    policy = home / "layer/usr/sbin/policy-rc.d"  # no daemon may start while packages are installed
    policy.parent.mkdir(parents=True)
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    policy.chmod(0o755)
    options = f"lowerdir={root},upperdir={home / 'layer'},workdir={home / 'work'}"
    for argv in (["update", "-q"], ["install", *APT_OPTIONS, *part.packages], ["clean"]):
        chroot.outside(["sh", "-c", IN_LAYER, "sh", options, str(home / "at"), "apt-get", *argv])
    policy.unlink()
    for path in (home / "layer/var/lib/apt/lists", home / "work", home / "at"):
        shutil.rmtree(path, ignore_errors=True)
    (home / READY).write_text(json.dumps({"packages": part.packages, "root": str(root)}) + "\n", encoding="utf-8")
    os.sync()
    say(f"{name} is ready after {time.monotonic() - started:.0f} s")
