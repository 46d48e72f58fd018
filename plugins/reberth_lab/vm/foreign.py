"""A root filesystem for another processor: packages are unpacked, not installed, so nothing of it is run here.

Neither qemu-user nor binfmt_misc is needed, so nothing is registered with this machine's kernel. What the packages'
own scripts would do is done here, as far as a node needs it: users, alternatives, sshd's configuration, the list of
modules. dpkg inside knows of no package.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from reberth_lab import rootfs
from reberth_lab.apt import Mirror, find_mirror
from reberth_lab.chroot import Chroot
from reberth_lab.proc import LabError
from reberth_lab.vm.arch import Arch

RECIPE = 2
# No compiler: it is a quarter of all, and the tests of these nodes compile nothing. criu is Debian 13's own.
PACKAGES = (*rootfs.BASE, *rootfs.RUNTIMES, *rootfs.NODE, *rootfs.PYTHON, "criu", "kmod", "mawk", "bash")
COST = "download about 120 MB, 2 to 4 minutes, 0.4 GB"
# debootstrap's own wish for what must be there; apt resolves the rest for a system on which nothing is installed.
ESSENTIAL = "?essential"
APT_CONF = """\
Dir::State "{apt}/state";
Dir::State::status "{apt}/status";
Dir::Cache "{apt}/cache";
Dir::Etc::sourcelist "{apt}/debian.sources";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
APT::Architecture "{debian}";
APT::Architectures {{ "{debian}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
"""
SOURCE = "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n"
# base-files first: it has the links from /bin, /lib and /sbin, which the others go through.
UNPACK = 'for f in "$1"/base-files_*.deb "$1"/*.deb; do dpkg-deb -x "$f" "$2" || exit 1; done'
# Each start of Python would compile again what it imports, which takes an emulated processor half a minute. The
# Python of the other kind's root is the same version; what it compiles fits every processor.
COMPILE = (
    'mount --bind "$1" "$2/mnt" && exec chroot "$2" python3 -m compileall -q -s /mnt -p / -x "/(test|idlelib)/"'
    " /mnt/usr/lib/python3.13 /mnt/usr/lib/python3/dist-packages"
)
LINKS = {
    "usr/bin/awk": "mawk",
    "usr/bin/which": "which.debianutils",
    "usr/bin/nc": "ncat",
    "usr/bin/pager": "less",
    **{
        f"usr/sbin/{name}{end}": f"{name}-nft{end}"
        for name in ("iptables", "ip6tables")
        for end in ("", "-save", "-restore")
    },
    "var/run": "/run",
    "var/lock": "/run/lock",
}
COPIES = {
    "usr/share/base-passwd/passwd.master": "etc/passwd",
    "usr/share/base-passwd/group.master": "etc/group",
    "usr/share/libc-bin/nsswitch.conf": "etc/nsswitch.conf",
    "usr/share/base-files/profile": "etc/profile",
    "usr/share/base-files/dot.profile": "root/.profile",
    "usr/share/openssh/sshd_config": "etc/ssh/sshd_config",
}
USERS = "sshd:*:100:65534::/run/sshd:/usr/sbin/nologin\nredis:*:101:65534::/var/lib/redis:/usr/sbin/nologin\n"


def fill(chroot: Chroot, arch: Arch, native: Path) -> dict[str, str]:
    """Makes the tree, with the kernel in its /boot; returns the packages (name -> version) and raises LabError.

    `native` is the finished root filesystem of this machine's own processor.
    """
    apt = chroot.root.with_name("apt")
    archives = _download(chroot, apt, arch, find_mirror())
    chroot.root.mkdir()
    chroot.outside(["sh", "-c", UNPACK, "sh", str(archives), str(chroot.root)])
    _set_up(chroot.root)
    for modules in (chroot.root / "usr/lib/modules").iterdir():
        chroot.outside(["depmod", "-b", str(chroot.root), modules.name])
    chroot.outside(["sh", "-c", COMPILE, "sh", str(chroot.root), str(native)])
    found = packages(archives)
    chroot.outside(["rm", "-r", str(apt)])
    return found


def packages(archives: Path) -> dict[str, str]:
    """Name -> version of the archives there, by their names: NAME_VERSION_ARCHITECTURE.deb, a colon as %3a."""
    names = (urllib.parse.unquote(path.name).split("_") for path in sorted(archives.glob("*.deb")))
    return {name: version for name, version, _ in names}


def _download(chroot: Chroot, apt: Path, arch: Arch, mirror: Mirror) -> Path:
    """Fetches what a system with nothing on it needs, into a folder of its own; this machine's apt is not touched."""
    archives = apt / "cache/archives"
    for folder in (apt / "state/lists/partial", archives / "partial"):
        folder.mkdir(parents=True)
    (apt / "status").touch()
    source = SOURCE.format(uri=mirror.uri, suite=rootfs.SUITE, keyring=mirror.keyring)
    (apt / "debian.sources").write_text(source, encoding="utf-8")
    (apt / "apt.conf").write_text(APT_CONF.format(apt=apt, debian=arch.debian), encoding="utf-8")
    program = ["env", f"APT_CONFIG={apt / 'apt.conf'}", "apt-get", "-q"]
    chroot.outside([*program, "update"])
    chroot.outside([*program, "install", "-y", "--download-only", ESSENTIAL, *PACKAGES, arch.kernel])
    return archives


def _set_up(root: Path) -> None:
    """Do what the scripts of the packages would have done."""
    for there, here in COPIES.items():
        (root / here).parent.mkdir(parents=True, exist_ok=True)
        (root / here).write_bytes((root / there).read_bytes())
    with (root / "etc/passwd").open("a", encoding="ascii") as file:
        file.write(USERS)
    for here, target in LINKS.items():
        path = root / here
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        if not path.is_symlink():
            path.symlink_to(target)
    if not (root / "usr/sbin/criu").exists():
        raise LabError("the packages for the other processor hold no criu")
