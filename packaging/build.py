"""Builds the packages: python packaging/build.py deb|rpm, as root; they come to dist/.

The tree that git knows is copied into a Debian 13 root of the cache, with the libraries of vendor.txt, and built there,
without network, so that the same tree gives the same bytes on every machine. lintian or rpmlint judge the result; what
they say is an error.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import roots
import vendor

from reberth_lab.chroot import Chroot
from reberth_lab.proc import LabError, run, say
from reberth_lab.site import Site

ROOT = Path(__file__).resolve().parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
NAME = f"reberth-{VERSION}"
EPOCH = "1795597200"  # of packaging/debian/changelog; a test compares


def tree() -> list[Path]:
    """The files of the checkout that git knows, or all of an unpacked archive."""
    if (ROOT / ".git").exists():
        # a checkout of another user is no danger here: nothing of it is run but what is built anyway
        argv = ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others"]
        out = run([*argv, "--exclude-standard"]).stdout
        names = sorted({name for name in out.split("\0") if name})
        return [Path(name) for name in names if (ROOT / name).is_file()]
    skipped = {".venv", "dist", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
    files = (path.relative_to(ROOT) for path in sorted(ROOT.rglob("*")) if path.is_file())
    return [path for path in files if not skipped & set(path.parts)]


def copy_tree(into: Path) -> None:
    """Put the tree and what is bundled there, with modes and times that do not depend on this machine."""
    for name in tree():
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        target.chmod(0o755 if os.access(ROOT / name, os.X_OK) else 0o644)
    vendor.unpack(Site.of().cache / "wheels", into / "packaging/vendor")
    for path in sorted(into.rglob("*"), reverse=True):
        if path.is_dir():
            path.chmod(0o755)
        os.utime(path, (int(EPOCH), int(EPOCH)))


def deb(chroot: Chroot, judged: bool) -> list[Path]:
    """Build the Debian package and judge it."""
    top = chroot.root / "build" / NAME
    copy_tree(top)
    shutil.copytree(top / "packaging/debian", top / "debian")
    # -d: build-essential is asked for everywhere, but here nothing is compiled
    chroot.inside(["env", "-C", f"/build/{NAME}", "dpkg-buildpackage", "--build=full", "-us", "-uc", "-d"])
    if judged:
        judge(chroot, ["lintian", "-I", "--fail-on", "error,warning,info", *_inside(chroot, "*.changes")])
    return sorted(path for path in (chroot.root / "build").iterdir() if path.is_file())


def rpm(chroot: Chroot, judged: bool) -> list[Path]:
    """Build the source package and the package for Fedora and judge them."""
    top = chroot.root / "build/rpm"
    (chroot.root / "etc/rpm").mkdir(exist_ok=True)
    copy_tree(chroot.root / "build" / NAME)
    (top / "SOURCES").mkdir(parents=True)
    archive(chroot.root / "build" / NAME, top / f"SOURCES/{NAME}.tar.gz")
    spec = f"/build/{NAME}/packaging/rpm/reberth.spec"
    settings = {
        "_topdir": "/build/rpm",
        "_buildhost": "localhost",
        "use_source_date_epoch_as_buildtime": "1",
        "clamp_mtime_to_source_date_epoch": "1",
        "build_mtime_policy": "clamp_to_source_date_epoch",
    }
    defines = [word for key, value in settings.items() for word in ("--define", f"{key} {value}")]
    shutil.copyfile(chroot.root / "build" / NAME / "packaging/rpm/macros", chroot.root / "etc/rpm/macros.reberth")
    env = ["env", "-C", "/build/rpm", f"SOURCE_DATE_EPOCH={EPOCH}"]
    chroot.inside([*env, "rpmbuild", "-ba", "--nodeps", *defines, spec])
    made = _inside(chroot, "rpm/RPMS/noarch/*.rpm") + _inside(chroot, "rpm/SRPMS/*.rpm")
    if judged:
        judge(chroot, ["rpmlint", "-c", f"/build/{NAME}/packaging/rpm/rpmlint.toml", *made])
    return [chroot.root / path.lstrip("/") for path in made]


def archive(folder: Path, into: Path) -> None:
    """A tar file of the folder, the same for the same tree."""
    data = BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in [folder, *sorted(folder.rglob("*"))]:
            member = tar.gettarinfo(str(path), str(path.relative_to(folder.parent)))
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mtime = int(EPOCH)
            with path.open("rb") if path.is_file() else BytesIO() as file:
                tar.addfile(member, file if path.is_file() else None)
    into.write_bytes(gzip.compress(data.getvalue(), mtime=int(EPOCH)))


def judge(chroot: Chroot, argv: list[str]) -> None:
    """Show what a checker says; LabError when it is not content."""
    say(f"{argv[0]}: {chroot.inside(argv).strip() or 'nothing to complain about'}")


def _inside(chroot: Chroot, pattern: str) -> list[str]:
    found = sorted((chroot.root / "build").glob(pattern))
    if not found:
        raise LabError(f"the build made no {pattern}")
    return [f"/{path.relative_to(chroot.root)}" for path in found]


def make(kind: str, chroot: Chroot, into: Path, *, judged: bool = True) -> list[Path]:
    """Build one kind of package in a root that may be spoiled; answers the files, copied into a folder."""
    makers: dict[str, Callable[[Chroot, bool], list[Path]]] = {"deb": deb, "rpm": rpm}
    shutil.rmtree(chroot.root / "build", ignore_errors=True)
    into.mkdir(parents=True, exist_ok=True)
    try:
        return [Path(shutil.copy(path, into)) for path in makers[kind](chroot, judged)]
    except LabError:
        shutil.copyfile(chroot.log, into / f"failed-{kind}.log")
        raise


def build(kind: str, into: Path) -> list[Path]:
    """Build one kind of package in a fresh root."""
    with roots.copy_of(roots.ensure(Site.of().cache, say) / "build") as chroot:
        return make(kind, chroot, into)


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit(
            f"make {sys.argv[1]}: chroot and debootstrap need root; or use packaging/ with your system's own tools"
        )
    try:
        for path in build(sys.argv[1], ROOT / "dist"):
            say(str(path))
    except (LabError, subprocess.SubprocessError) as error:
        sys.exit(f"make {sys.argv[1]}: {error}")
