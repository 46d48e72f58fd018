"""Debian 13 roots to build packages in and to install them into; made once, kept in the cache of the lab.

Two of them: `base` is a minimal Debian 13 with the archives of reberth's dependencies downloaded and none installed,
so that an installation needs no network; `build` is a copy with the tools that make and judge packages.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from reberth_lab import rootfs
from reberth_lab.apt import Mirror, find_mirror
from reberth_lab.chroot import Chroot
from reberth_lab.locks import locked
from reberth_lab.proc import Say, need, run

RECIPE = 1
SUITE = "trixie"
# What `apt install ./reberth.deb` brings along, what reads the man page, and the shell's own completion.
WANTED = ("python3-pluggy", "python3-typer", "python3-sh", "python3-rich", "python3-tomlkit", "openssh-client")
BESIDE = ("man-db", "bash-completion")
# What the lxd plugin's bundled library needs, and the clients and shells in which its alias is tried.
LXD = ("python3-requests", "python3-requests-toolbelt", "python3-dateutil", "python3-cryptography")
CLIENTS = ("incus-client", "lxd-client", "zsh", "fish")
DEB = ("dpkg-dev", "debhelper", "dh-python", "pybuild-plugin-pyproject", "python3-all", "python3-hatchling", "lintian")
RPM = ("rpm", "rpmlint", "python3-pip", "python3-wheel")
TOOLS = (*DEB, *RPM, "python3-docutils", "cpio")
APT = ("-y", "-q", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0")


def home(cache: Path) -> Path:
    """Where the roots of the present recipe are, or will be."""
    recipe = json.dumps([RECIPE, SUITE, WANTED, BESIDE, LXD, CLIENTS, TOOLS])
    return cache / f"packages-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def ensure(cache: Path, say: Say) -> Path:
    """The folder with `base` and `build`, made now if it must be (2 to 4 minutes, 250 MB); raises LabError."""
    found = home(cache)
    if found.is_dir():
        return found
    need("debootstrap", "debootstrap")
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locked(cache / "packages.lock", wait_s=1800, remove=False):
        if found.is_dir():
            return found
        for old in cache.glob("packages-*"):
            shutil.rmtree(old, ignore_errors=True)
        work = cache / f"packages-new-{os.getpid()}"
        work.mkdir()
        _make(work, find_mirror(), say)
        work.rename(found)
    return found


def _make(work: Path, mirror: Mirror, say: Say) -> None:
    log = work / "build.log"
    base = Chroot(work / "base", log)
    say(f"making roots of Debian 13 for the packages, 2 to 4 minutes, 250 MB, log in {log}")
    extra = ["--include=ca-certificates"] if mirror.uri.startswith("https:") else []
    argv = ["debootstrap", "--variant=minbase", f"--keyring={mirror.keyring}", *extra, SUITE, str(base.root)]
    base.outside([*argv, mirror.uri])
    rootfs.configure_apt(base, mirror)
    base.inside(["apt-get", "clean"])
    base.inside(["apt-get", "update", "-q"])
    base.inside(["apt-get", "install", *APT, "--download-only", *WANTED, *BESIDE, *LXD, *CLIENTS])
    say("installing the tools that make packages")
    run(["cp", "-a", "--reflink=auto", "--", str(base.root), str(work / "build")], timeout_s=300)
    build = Chroot(work / "build", log)
    build.inside(["apt-get", "install", *APT, *TOOLS])
    build.inside(["apt-get", "clean"])


@contextmanager
def copy_of(root: Path) -> Iterator[Chroot]:
    """A root of one's own to spoil, gone afterwards; its log is beside it while it lives."""
    # Beside the original: a copy on the same file system may share blocks, and /tmp may be small or nodev.
    with tempfile.TemporaryDirectory(prefix="copy-", dir=root.parent.parent) as work:
        run(["cp", "-a", "--reflink=auto", "--", str(root), f"{work}/root"], timeout_s=300)
        yield Chroot(Path(work) / "root", Path(work) / "log")


def install(chroot: Chroot, words: Sequence[str]) -> str:
    """Install packages or .deb files (by their path inside) and answer what apt printed."""
    return chroot.inside(["apt-get", "install", *APT, *words])
