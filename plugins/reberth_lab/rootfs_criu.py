"""Which criu goes into the nodes: the first of at least 4.2 among Debian 13, its backports and sid."""

from __future__ import annotations

from collections.abc import Sequence

from reberth_lab.chroot import Chroot
from reberth_lab.proc import LabError

LEAST_VERSION = "4.2"  # 4.1 cannot dump TCP sockets on a kernel >= 6.16 (SO_PASSCRED)
SID = "sid"
SOURCES = "etc/apt/sources.list.d/criu.sources"
PIN = "etc/apt/preferences.d/criu"


def source_text(uri: str, suite: str, *, check_date: bool) -> str:
    """One deb822 source; without `check_date` an old index is accepted (its signature is still checked)."""
    lines = [
        "Types: deb",
        f"URIs: {uri}",
        f"Suites: {suite}",
        "Components: main",
        "Signed-By: /etc/apt/keyrings/lab.gpg",
    ]
    return "\n".join(lines + ([] if check_date else ["Check-Valid-Until: no"])) + "\n"


def install(chroot: Chroot, uri: str, suite: str, apt_options: Sequence[str]) -> str:
    """Installs criu, removes the sources that were added for it, and returns the version; raises LabError."""
    backports = f"{suite}-backports"
    pin = chroot.root / PIN
    sources = chroot.root / SOURCES
    # Priority 1: nothing but what is asked for by name and suite comes from these two.
    pins = [f"Package: *\nPin: release n={name}\nPin-Priority: 1\n" for name in (backports, SID)]
    pin.write_text("\n".join(pins), encoding="utf-8")
    try:
        for added in ((), (backports,), (backports, SID)):
            # Debian sid's index lives a week only; a mirror that stands still must not stop the lab.
            texts = [source_text(uri, name, check_date=name != SID) for name in added]
            sources.write_text("\n".join(texts), encoding="utf-8")
            _update(chroot)
            version = _best(chroot)
            if version:
                return _install_version(chroot, version, (suite, *added)[-1], apt_options)
        raise LabError(f"no criu >= {LEAST_VERSION} for Debian 13 at {uri}", "name another mirror: REBERTH_LAB_MIRROR")
    finally:
        pin.unlink(missing_ok=True)
        sources.unlink(missing_ok=True)


def _update(chroot: Chroot) -> None:
    try:
        chroot.inside(["apt-get", "update", "-q"])
    except LabError:
        # A mirror without backports is no reason to fail: the next suite is tried, or no version is found.
        chroot.inside(["apt-get", "check", "-q"])


def _best(chroot: Chroot) -> str:
    """Return the newest criu that the sources offer, empty if it is too old."""
    rows = [line.split("|") for line in chroot.inside(["apt-cache", "madison", "criu"]).splitlines()]
    best = ""
    for version in (row[1].strip() for row in rows if len(row) == 3 and "Packages" in row[2]):
        if _at_least(chroot, version, best or LEAST_VERSION):
            best = version
    return best


def _at_least(chroot: Chroot, version: str, bound: str) -> bool:
    try:
        chroot.inside(["dpkg", "--compare-versions", version, "ge", bound])
    except LabError:
        return False
    return True


def _install_version(chroot: Chroot, version: str, suite: str, apt_options: Sequence[str]) -> str:
    # Debian 13's own criu first: its libraries satisfy the newer one too, save for what `-t` then takes from `suite`.
    chroot.inside(["apt-get", "install", *apt_options, "criu"])
    chroot.inside(["apt-get", "install", *apt_options, "-t", suite, f"criu={version}"])
    return version
