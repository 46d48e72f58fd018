"""The root filesystem of the nodes: Debian 13, made once by debootstrap, kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from reberth_lab import rootfs_criu
from reberth_lab.apt import Mirror, find_mirror
from reberth_lab.chroot import Chroot
from reberth_lab.locks import locked
from reberth_lab.proc import LabError, Say, need, run

RECIPE = 1
SUITE = "trixie"
BASE = ("openssh-server", "openssh-client", "iproute2", "iputils-ping", "iptables", "nftables", "procps", "util-linux")
RUNTIMES = ("runc", "crun", "libcriu2")  # crun, with the library it loads: for the tutorial's backend
NODE = ("redis-server", "zstd", "rsync", "ncat", "socat", "openssl", "psmisc", "less", "attr", "acl", "strace")
# reberth runs inside as well
PYTHON = ("python3", "python3-pluggy", "python3-typer", "python3-sh", "python3-rich", "python3-tomlkit")
BUILD = ("gcc", "libc6-dev", "libcap2-bin")  # the tests compile small workloads inside
PACKAGES = (*BASE, *RUNTIMES, *NODE, *PYTHON, *BUILD)
NEED_BYTES = 1536 << 20  # the tree takes 0.5 GiB, while it is made 0.8 GiB
DOWNLOAD = "about 170 MB"  # 45 MB base system, 90 MB packages, 3 MB criu, 30 MB package lists
DURATION = "1 to 3 minutes"
STAMP = "stamp.json"
STATE = "state.json"  # in the state directory of each lab
APT_OPTIONS = ("-y", "-q", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confold")


def recipe_hash() -> str:
    """Name the recipe: with each change of how the root filesystem is made RECIPE counts up, and it is made anew."""
    recipe = [RECIPE, SUITE, *PACKAGES, rootfs_criu.LEAST_VERSION]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def cached(cache: Path) -> Path | None:
    """Return the finished root filesystem of the present recipe, if it is there."""
    homes = sorted(path.parent for path in cache.glob(f"{SUITE}-{recipe_hash()}-*/{STAMP}"))
    return homes[-1] / "root" if homes else None


def stamp(root: Path) -> dict[str, str]:
    """Package versions (name -> version) of a finished root filesystem."""
    data: dict[str, str] = json.loads((root.parent / STAMP).read_text(encoding="utf-8"))["packages"]
    return data


def ensure(cache: Path, *, say: Say, install: bool = False, rebuild: bool = False) -> Path:
    """Return the root filesystem's directory, made now if it must be.

    Raises LabError with the remedy when it cannot.
    """
    if set(str(cache)) & set(":,\\ \n"):
        raise LabError(f"overlayfs cannot use {cache}", "name a directory without colon, comma, backslash and space")
    found = cached(cache)
    if found and not rebuild:
        return found
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locked(cache / "build.lock", wait_s=1800, remove=False):
        found = cached(cache)
        if found and not rebuild:
            return found
        return _build(cache, find_mirror(), say, install)


def _build(cache: Path, mirror: Mirror, say: Say, install: bool) -> Path:
    _check_space(cache)
    _check_tools(say, install)
    for old in cache.glob("build-*"):  # of a build that was killed; the lock says that nobody is at it
        shutil.rmtree(old, ignore_errors=True)
    work = cache / f"build-{os.getpid()}"
    root = work / "root"
    root.mkdir(parents=True)
    say(f"making the root filesystem: Debian 13 by debootstrap, download {DOWNLOAD}, {DURATION}, into {cache}")
    started = time.monotonic()
    chroot = Chroot(root, work / "build.log")
    try:
        _fill(chroot, mirror, say)
    except LabError:
        shutil.copyfile(work / "build.log", cache / "failed-build.log")
        raise
    _write_stamp(work, versions(chroot))
    # The time keeps a rebuilt tree apart from the present one, which nodes may be running on.
    home = cache / f"{SUITE}-{recipe_hash()}-{int(time.time())}"
    work.rename(home)
    _prune(cache, home)
    say(f"the root filesystem is ready after {time.monotonic() - started:.0f} s")
    return home / "root"


def _prune(cache: Path, newest: Path) -> None:
    """Removes older trees on which no lab of this machine runs."""
    used = {Path(root).parent for state in Path("/run").glob("reberth-*") for root in state_roots(state).values()}
    for home in cache.glob(f"{SUITE}-*"):
        if home != newest and home not in used:
            shutil.rmtree(home, ignore_errors=True)


def state_roots(state: Path) -> dict[str, str]:
    """On which tree each node of the lab in `state` runs (node -> root); empty when the lab is down."""
    try:
        data: dict[str, str] = json.loads((state / STATE).read_text(encoding="utf-8"))["roots"]
    except (OSError, ValueError, KeyError):
        return {}
    return data


def _fill(chroot: Chroot, mirror: Mirror, say: Say) -> None:
    say(f"debootstrap {SUITE} from {mirror.uri}")
    extra = ["--include=ca-certificates"] if mirror.uri.startswith("https:") else []
    keyring = f"--keyring={mirror.keyring}"
    chroot.outside(["debootstrap", "--variant=minbase", keyring, *extra, SUITE, str(chroot.root), mirror.uri])
    configure_apt(chroot, mirror)
    say(f"installing {len(PACKAGES)} packages")
    chroot.inside(["apt-get", "update", "-q"])
    chroot.inside(["apt-get", "install", *APT_OPTIONS, *PACKAGES])
    say("looking for criu >= 4.2")
    say(f"criu {rootfs_criu.install(chroot, mirror.uri, SUITE, APT_OPTIONS)}")
    clean_up(chroot)
    for key in (chroot.root / "etc/ssh").glob("ssh_host_*"):  # each lab makes its own
        key.unlink()


def clean_up(chroot: Chroot) -> None:
    """Removes what installing packages has left, and allows daemons to start."""
    chroot.inside(["apt-get", "clean"])
    shutil.rmtree(chroot.root / "var/lib/apt/lists")
    (chroot.root / "var/lib/apt/lists/partial").mkdir(parents=True)
    (chroot.root / "usr/sbin/policy-rc.d").unlink()


def configure_apt(chroot: Chroot, mirror: Mirror) -> None:
    """Lets apt in the tree use this machine's mirror, keyring and name servers, and no daemon start."""
    root = chroot.root
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    keyring = root / "etc/apt/keyrings/lab.gpg"
    keyring.parent.mkdir(exist_ok=True)
    shutil.copyfile(mirror.keyring, keyring)
    keyring.chmod(0o644)
    source = rootfs_criu.source_text(mirror.uri, SUITE, check_date=True)
    (root / "etc/apt/sources.list.d/debian.sources").write_text(source, encoding="utf-8")
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if mirror.uri.startswith("https:") and bundle.is_file():
        shutil.copyfile(bundle, root / "etc/ssl/certs/ca-certificates.crt")
    policy = root / "usr/sbin/policy-rc.d"  # no daemon may start while packages are installed
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    policy.chmod(0o755)


def versions(chroot: Chroot) -> dict[str, str]:
    """Return the packages in the tree (name -> version)."""
    lines = chroot.inside(["dpkg-query", "-W", "-f", "${Package} ${Version}\\n"]).splitlines()
    return dict(line.split(" ", 1) for line in lines if " " in line)


def _write_stamp(work: Path, packages: Mapping[str, str]) -> None:
    text = json.dumps({"recipe": recipe_hash(), "suite": SUITE, "packages": packages}, indent=1)
    (work / STAMP).write_text(text + "\n", encoding="utf-8")


def _check_space(cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    if free < NEED_BYTES:
        raise LabError(
            f"{cache} has {free >> 20} MiB free, the root filesystem needs {NEED_BYTES >> 20} MiB while it is made",
            "free some space, or name another directory in REBERTH_LAB_CACHE",
        )


def _check_tools(say: Say, install: bool) -> None:
    if shutil.which("debootstrap", path="/usr/sbin:/usr/bin") is None:
        if not install:
            raise LabError("debootstrap is not installed", "apt-get install debootstrap, or reberth lab up --install")
        say("installing debootstrap")
        run(["apt-get", "update", "-q"], timeout_s=300)
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "debootstrap"], timeout_s=300)
    need("unshare", "util-linux")
    need("setpriv", "util-linux")
