"""The disk that every virtual node begins with: the root filesystem of the other kind, Debian's kernel and an init.

Made once and kept in the cache. Nodes never write to it: QEMU keeps what they write in a file without a name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reberth_lab import layers, rootfs
from reberth_lab.apt import find_mirror
from reberth_lab.chroot import Chroot
from reberth_lab.locks import locked
from reberth_lab.proc import LabError, Say
from reberth_lab.vm import foreign
from reberth_lab.vm.arch import X86_64, of

RECIPE = 1
PREFIX = "vm"
GUEST = Path(__file__).parents[1] / "guest"
INIT_HOME = "usr/local/lib/reberth-lab"
INIT = f"/{INIT_HOME}/vm-init.sh"
DISK_BYTES = 6 << 30  # as the nodes see it; the file has holes
NEED_BYTES = 2560 << 20  # while it is made: the copied tree and the image; the image stays with 0.8 GB
DOWNLOAD = "about 60 MB"  # 37 MB kernel and tools, 20 MB package lists
DURATION = "1 minute"
# The mount ends with the program's own mount namespace.
MERGE = 'mkdir "$2" "$2.all" && mount -t overlay lab -o "lowerdir=$1" "$2.all" && cp -a -- "$2.all/." "$2"'


@dataclass(frozen=True)
class Image:
    """A finished image: its folder in the cache."""

    home: Path
    arch: str = X86_64

    @property
    def disk(self) -> Path:
        """Return the raw disk, an ext4 filesystem without a partition table."""
        return self.home / "disk.img"

    @property
    def kernel(self) -> Path:
        """Return what QEMU starts."""
        return self.home / "vmlinuz"

    def versions(self) -> dict[str, str]:
        """Package versions (name -> version) inside."""
        data: dict[str, str] = json.loads((self.home / rootfs.STAMP).read_text(encoding="utf-8"))["packages"]
        return data


def recipe_hash(parts: Sequence[str] = (), arch: str = X86_64) -> str:
    """Names the recipe; a change of the root filesystem's, of a part or of the init programs makes a new image."""
    programs = [path.read_text(encoding="utf-8") for path in _programs()]
    packages = [layers.PARTS[part].packages + layers.PARTS[part].with_kernel for part in parts]
    recipe = [RECIPE, rootfs.recipe_hash(), of(arch).kernel, DISK_BYTES, *programs, *packages]
    if arch != X86_64:
        recipe += [foreign.RECIPE, *foreign.PACKAGES]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def kind_of(parts: Sequence[str], arch: str = X86_64) -> str:
    """Return how the images with these parts of `layers.PARTS` are called, so that one kind never prunes another."""
    return "+".join([PREFIX, *([arch] if arch != X86_64 else []), *parts])


def cached(cache: Path, parts: Sequence[str] = (), arch: str = X86_64) -> Image | None:
    """Return the finished image of the present recipe, if it is there."""
    start = f"{kind_of(parts, arch)}-{recipe_hash(parts, arch)}"
    homes = sorted(path.parent for path in cache.glob(f"{start}-*/{rootfs.STAMP}"))
    return Image(homes[-1], arch) if homes else None


def ensure(
    cache: Path,
    *,
    say: Say,
    install: bool = False,
    rebuild: bool = False,
    parts: Sequence[str] = (),
    arch: str = X86_64,
) -> Image:
    """Return the image, made now if it must be; raises LabError with the remedy when it cannot."""
    if parts and arch != X86_64:
        raise LabError(f"nodes that are {arch} have no further parts", "leave out --with, or --arch")
    found = cached(cache, parts, arch)
    if found and not rebuild:
        return found
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locked(cache / "vm-build.lock", wait_s=1800, remove=False):
        found = cached(cache, parts, arch)
        if found and not rebuild:
            return found
        _check_space(cache)
        root = rootfs.ensure(cache, say=say, install=install, rebuild=rebuild)
        above = [layers.ensure(name, cache, root, say) for name in parts if layers.PARTS[name].packages]
        return _build(cache, [*above, root], parts, arch, say)


def _build(cache: Path, trees: Sequence[Path], parts: Sequence[str], arch: str, say: Say) -> Image:
    """Makes it of the trees, the topmost first; for another processor of packages, with the tree's Python."""
    recipe, kind = recipe_hash(parts, arch), kind_of(parts, arch)
    for old in cache.glob(f"{PREFIX}build-*"):  # of a build that was killed; the lock says that nobody is at it
        shutil.rmtree(old, ignore_errors=True)
    work = cache / f"{PREFIX}build-{os.getpid()}"
    work.mkdir()
    kernel = of(arch).kernel
    cost = f"download {DOWNLOAD}, {DURATION}, 0.8 GB" if arch == X86_64 else foreign.COST
    say(f"making the disk of virtual nodes: {kernel}, {cost} in {cache}")
    started = time.monotonic()
    chroot = Chroot(work / "root", work / "build.log")
    try:
        if arch == X86_64:
            _fill(chroot, trees, kernel)
            _add_modules(chroot, kernel, parts, say)
            packages = rootfs.versions(chroot)
            rootfs.clean_up(chroot)
        else:
            packages = foreign.fill(chroot, of(arch), trees[0])
        _finish(chroot)
        _write_stamp(work, recipe, packages)
        size = f"{DISK_BYTES >> 20}M"
        # No journal: a node's disk is thrown away with the node.
        format_words = ["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-F"]
        chroot.outside(["mke2fs", *format_words, "-d", str(chroot.root), str(work / "disk.img"), size])
    except LabError:
        shutil.copyfile(work / "build.log", cache / "failed-build.log")
        raise
    shutil.rmtree(chroot.root)
    home = cache / f"{kind}-{recipe}-{int(time.time())}"
    work.rename(home)
    _prune(cache, kind, home)
    say(f"the disk of virtual nodes is ready after {time.monotonic() - started:.0f} s")
    return Image(home, arch)


def _fill(chroot: Chroot, trees: Sequence[Path], kernel: str) -> None:
    words = [str(tree) for tree in trees]
    if len(words) > 1:
        chroot.outside(["sh", "-c", MERGE, "sh", ":".join(words), str(chroot.root)])
        chroot.root.with_name(f"{chroot.root.name}.all").rmdir()
    else:
        chroot.outside(["cp", "-a", "--reflink=auto", "--", words[0], str(chroot.root)])
    rootfs.configure_apt(chroot, find_mirror())
    chroot.inside(["apt-get", "update", "-q"])
    chroot.inside(["env", "INITRD=No", "apt-get", "install", *rootfs.APT_OPTIONS, kernel])


def _add_modules(chroot: Chroot, kernel: str, parts: Sequence[str], say: Say) -> None:
    """Builds the modules of these parts for that kernel; they are in Debian's `contrib`, as source."""
    wanted = [layers.PARTS[part] for part in parts if layers.PARTS[part].with_kernel]
    packages = [name for part in wanted for name in part.with_kernel]
    if not packages:
        return
    say(f"adding {', '.join(packages)}: download {', '.join(part.download for part in wanted)}")
    source = chroot.root / "etc/apt/sources.list.d/debian.sources"
    plain = source.read_text(encoding="utf-8")
    source.write_text(plain.replace("Components: main", "Components: main contrib"), encoding="utf-8")
    chroot.inside(["apt-get", "update", "-q"])
    chroot.inside(["apt-get", "install", *rootfs.APT_OPTIONS, kernel.replace("-image-", "-headers-")])
    chroot.inside(["apt-get", "install", *rootfs.APT_OPTIONS, *packages])
    source.write_text(plain, encoding="utf-8")
    if not list((chroot.root / "lib/modules").glob("*/updates/dkms/*")):
        raise LabError(f"no module came of {', '.join(packages)}", "see failed-build.log in the cache")


def _finish(chroot: Chroot) -> None:
    """Takes the kernel out, and puts the init programs in."""
    kernels = sorted((chroot.root / "boot").glob("vmlinuz-*"))
    shutil.copyfile(kernels[-1], chroot.root.parent / "vmlinuz")
    shutil.rmtree(chroot.root / "boot")
    (chroot.root / "boot").mkdir()
    home = chroot.root / INIT_HOME
    home.mkdir(parents=True, exist_ok=True)
    for program in _programs():
        shutil.copyfile(program, home / program.name)
    init = home / Path(INIT).name
    init.write_text("#!/bin/sh\n" + init.read_text("utf-8"), "utf-8")  # in a package nothing is executable there
    init.chmod(0o755)


def _programs() -> tuple[Path, ...]:
    return (GUEST / "init.py", GUEST / "vm-init.sh")


def _write_stamp(work: Path, recipe: str, packages: dict[str, str]) -> None:
    text = json.dumps({"recipe": recipe, "packages": packages}, indent=1)
    (work / rootfs.STAMP).write_text(text + "\n", encoding="utf-8")


def _prune(cache: Path, kind: str, newest: Path) -> None:
    """Removes older images of this kind on which no lab of this machine runs."""
    used = {
        Path(disk).parent for state in Path("/run").glob("reberth-*") for disk in rootfs.state_roots(state).values()
    }
    for home in cache.glob(f"{kind}-*"):
        if home.is_dir() and home != newest and home not in used:
            shutil.rmtree(home, ignore_errors=True)


def _check_space(cache: Path) -> None:
    needed = NEED_BYTES + (0 if rootfs.cached(cache) else rootfs.NEED_BYTES)
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise LabError(
            f"{cache} has {free >> 20} MiB free, the disk of virtual nodes needs {needed >> 20} MiB while it is made",
            "free some space, or name another directory in REBERTH_LAB_CACHE",
        )
