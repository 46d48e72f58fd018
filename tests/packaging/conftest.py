"""Fixtures of the packaging tests: packages built in Debian 13 roots, and roots to install them into."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from reberth_lab.proc import LabError
from reberth_lab.site import Site

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "packaging"))  # build.py and roots.py are programs, no package

import build  # noqa: E402
import roots  # noqa: E402

REQUIRED = os.environ.get("REBERTH_REQUIRE_LIVE", "0") not in ("", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs packages; the first one may have to make the roots."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("packaging")
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def home() -> Path:
    """The folder with the roots `base` and `build`."""
    if os.geteuid() != 0:
        missing("root: chroot and debootstrap need it")
    try:
        return roots.ensure(Site.of().cache, lambda _: None)
    except LabError as error:
        missing(f"the roots of Debian 13: {error} ({error.hint})")
        raise


def missing(what: str) -> None:
    """Skip, or fail where the tests must be complete."""
    if REQUIRED:
        pytest.fail(f"REBERTH_REQUIRE_LIVE=1, but there is no {what}")
    pytest.skip(f"no {what}")


@pytest.fixture(scope="session")
def workshop(home):
    """A root to build in."""
    with roots.copy_of(home / "build") as chroot:
        yield chroot


@pytest.fixture(scope="session")
def deb(workshop, tmp_path_factory) -> Path:
    """The Debian package; lintian has looked at it."""
    return _deb(build.make("deb", workshop, tmp_path_factory.mktemp("deb"), judged=True))


@pytest.fixture(scope="session")
def deb_again(deb, workshop, tmp_path_factory) -> Path:
    """The same tree built a second time."""
    return _deb(build.make("deb", workshop, tmp_path_factory.mktemp("deb"), judged=False))


def _deb(made) -> Path:
    return next(path for path in made if path.suffix == ".deb")


@pytest.fixture(scope="session")
def rpms(workshop, tmp_path_factory) -> list[Path]:
    """The package for Fedora and its source package; rpmlint has looked at them."""
    return sorted(build.make("rpm", workshop, tmp_path_factory.mktemp("rpm"), judged=True))


@pytest.fixture(scope="session")
def rpms_again(rpms, workshop, tmp_path_factory) -> list[Path]:
    """The same built a second time."""
    return sorted(build.make("rpm", workshop, tmp_path_factory.mktemp("rpm"), judged=False))


@pytest.fixture
def fresh(home):
    """A minimal Debian 13 with nothing of ours, to install into."""
    with roots.copy_of(home / "base") as chroot:
        yield chroot


@pytest.fixture
def put():
    """Copies a file or folder of this machine into a root."""

    def copy(chroot, path: Path, into: str) -> str:
        target = chroot.root / into.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True)
        else:
            shutil.copy(path, target)
        return into

    return copy
