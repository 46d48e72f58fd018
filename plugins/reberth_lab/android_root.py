"""The root filesystem of a lab phone: Debian 13's real adbd, mksh, toybox and sshd in the places of a LineageOS phone.

The programs are Debian's; `start-ssh`, `getprop` and the boot scripts are of our own writing, in the manner of
LineageOS. So the lab is honest about setting a phone up and carrying files, not about CRIU on an Android kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from pathlib import Path

from reberth_lab import rootfs
from reberth_lab.chroot import Chroot
from reberth_lab.locks import locked
from reberth_lab.proc import LabError, Say, run

RECIPE = 1
PACKAGES = ("adbd", "mksh", "toybox")
SHELL_UID = 2000
BIN = "system/bin"
# Where Debian has a program, and its name in /system/bin.
PROGRAMS = {
    "/usr/lib/android-sdk/platform-tools/adbd": "adbd",
    "/usr/bin/mksh": "sh",
    "/usr/bin/toybox": "toybox",
    "/usr/sbin/sshd": "sshd",
    "/usr/lib/openssh/sshd-session": "",
    "/usr/lib/openssh/sshd-auth": "",
    "/usr/lib/openssh/sftp-server": "",
    "/usr/bin/ssh-keygen": "ssh-keygen",
}
# Debian's toybox has these, a phone's has not.
NOT_THERE = frozenset({"sh", "login", "passwd", "wget", "httpd", "chroot", "nsenter"})

PASSWD = f"""\
root:x:0:0:root:/:/system/bin/sh
shell:x:{SHELL_UID}:{SHELL_UID}:shell:/data:/system/bin/sh
sshd:x:2001:2001:sshd:/:/system/bin/false
"""
GROUP = f"root:x:0:\nshell:x:{SHELL_UID}:\nsshd:x:2001:\n"
GETPROP = """\
#!/system/bin/sh
case $1 in
ro.lineage.version) echo 21.0-lab ;;
ro.product.model) echo 'Lab phone' ;;
ro.build.type) echo userdebug ;;
ro.product.cpu.abi) uname -m ;;
*) echo ;;
esac
"""
# Drops to the user `shell`, so that the lab's sshd is never root.
START_SSH = """\
#!/system/bin/sh
umask 077
for kind in ecdsa ed25519; do
    key=/data/ssh/ssh_host_${kind}_key
    if [ ! -f $key ]; then
        /system/bin/ssh-keygen -q -t $kind -N '' -C '' -f $key
        chmod 600 $key
        chmod 644 $key.pub
    fi
    chown shell:shell $key $key.pub
done
# do not daemonize: whoever started this may want to stop it
exec su shell -c 'exec /system/bin/sshd -D -f /system/etc/ssh/sshd_config'
"""
SSHD_CONFIG = "PasswordAuthentication yes\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
USERINIT = """\
#!/system/bin/sh
# runs what the user has put into userinit.d
for script in /data/local/userinit.d/*; do
    if [ -f "$script" ]; then sh "$script" </dev/null >/dev/null 2>&1 & fi
done
"""
INIT = """\
#!/system/bin/sh
export PATH=/system/bin ANDROID_DATA=/data TMPDIR=/data/local/tmp
unset LC_ALL
until [ -e /run/lab-ready ]; do sleep 0.05; done
if [ "$(id -u)" = 0 ]; then
    # a phone's sshd is root and may listen on port 22; this one is not, so the port is given to it
    echo 22 >/proc/sys/net/ipv4/ip_unprivileged_port_start
    for script in /system/etc/init.d/*; do sh "$script"; done
fi
while :; do adbd; sleep 1; done
"""
FILES = {
    "etc/passwd": (PASSWD, 0o644),
    "etc/group": (GROUP, 0o644),
    "etc/nsswitch.conf": ("passwd: files\ngroup: files\n", 0o644),
    "init.sh": (INIT, 0o755),
    f"{BIN}/getprop": (GETPROP, 0o755),
    f"{BIN}/start-ssh": (START_SSH, 0o755),
    "system/etc/ssh/sshd_config": (SSHD_CONFIG, 0o644),
    "system/etc/init.d/90userinit": (USERINIT, 0o755),
}
DIRECTORIES = {  # path -> mode and owner
    # 0771 on a phone, whose sshd is built to bear that; Debian's StrictModes refuses a group that may write
    "data": (0o751, 0),
    "data/local": (0o751, 0),
    "data/local/tmp": (0o771, SHELL_UID),
}
LINKS = {"bin/sh": "/system/bin/sh", "etc/ssh": "/data/ssh"}


def recipe_hash() -> str:
    """Names the recipe: it changes with the root of the nodes and with every text of this file."""
    texts = {name: list(value) for name, value in FILES.items()}
    recipe = [RECIPE, rootfs.recipe_hash(), PACKAGES, PROGRAMS, sorted(NOT_THERE), texts, DIRECTORIES, LINKS]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def ensure(cache: Path, *, say: Say, install: bool = False) -> Path:
    """Return the phone's root directory, made now if it must be; raises LabError with the remedy when it cannot."""
    base = rootfs.ensure(cache, say=say, install=install)
    with locked(cache / "android.lock", wait_s=1800, remove=False):
        found = cached(cache)
        return found or _build(cache, base, say)


def cached(cache: Path) -> Path | None:
    """Return the finished root of the present recipe, if it is there."""
    homes = sorted(path.parent for path in cache.glob(f"android-{recipe_hash()}-*/{rootfs.STAMP}"))
    return homes[-1] / "root" if homes else None


def _build(cache: Path, base: Path, say: Say) -> Path:
    for old in cache.glob("phone-build-*"):  # of a build that was killed; the lock says that nobody is at it
        shutil.rmtree(old, ignore_errors=True)
    work = cache / f"phone-build-{time.time_ns()}"
    work.mkdir()
    say(f"making the phone's root filesystem: {', '.join(PACKAGES)} from Debian 13, about 20 MB, half a minute")
    debian, phone = work / "debian", work / "root"
    run(["cp", "-a", "--reflink=auto", "--", str(base), str(debian)], timeout_s=300)
    chroot = Chroot(debian, work / "build.log")
    shutil.copyfile("/etc/resolv.conf", debian / "etc/resolv.conf")
    chroot.inside(["apt-get", "update", "-q"])
    chroot.inside(["apt-get", "install", *rootfs.APT_OPTIONS, *PACKAGES])
    _fill(chroot, phone)
    versions = chroot.inside(["dpkg-query", "-W", "-f", "${Package} ${Version}\\n", *PACKAGES, "openssh-server"])
    shutil.rmtree(debian)
    text = json.dumps({"packages": dict(line.split(" ", 1) for line in versions.splitlines())}, indent=1)
    (work / rootfs.STAMP).write_text(text + "\n", encoding="utf-8")
    home = cache / f"android-{recipe_hash()}-{int(time.time())}"
    work.rename(home)
    _prune(cache, home)
    return home / "root"


def _prune(cache: Path, newest: Path) -> None:
    """Removes older trees that no process of this machine has mounted."""
    mounted = []
    for process in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            mounted.append(process.read_text(encoding="utf-8", errors="replace"))
    for home in cache.glob("android-*-*"):
        if home != newest and not any(f"lowerdir={home}/" in text for text in mounted):
            shutil.rmtree(home, ignore_errors=True)


def _fill(chroot: Chroot, phone: Path) -> None:
    for name in (BIN, "bin", "etc", *DIRECTORIES, "sdcard", "system/etc/ssh", "system/etc/init.d"):
        (phone / name).mkdir(parents=True, exist_ok=True)
    for source, short in PROGRAMS.items():
        for path in (source, *_libraries(chroot, source)):
            _copy(chroot.root, path, phone)
        if short:
            (phone / BIN / short).symlink_to(source)
    for applet in chroot.inside(["toybox"]).split():
        if applet not in NOT_THERE and not (phone / BIN / applet).is_symlink():
            (phone / BIN / applet).symlink_to("toybox")
    for path, (text, mode) in FILES.items():
        (phone / path).write_text(text, encoding="utf-8")
        (phone / path).chmod(mode)
    for name, points_to in LINKS.items():
        (phone / name).symlink_to(points_to)
    for path, (mode, uid) in DIRECTORIES.items():
        (phone / path).chmod(mode)
        shutil.chown(phone / path, uid, uid)


def _libraries(chroot: Chroot, program: str) -> list[str]:
    """Return what a program of the chroot is linked with, the loader included."""
    words = chroot.inside(["ldd", program]).split()
    return sorted({word for word in words if word.startswith("/") and not word.endswith(":")})


def _copy(root: Path, path: str, into: Path) -> None:
    """One file, to the same path; links on the way are followed within `root`."""
    source = root / path.lstrip("/")
    target = into / path.lstrip("/")
    if target.exists():
        return
    while source.is_symlink():
        link = source.readlink()
        source = root / str(link).lstrip("/") if link.is_absolute() else source.parent / link
    if not source.is_file():
        raise LabError(f"{path} is missing in Debian's packages", "is the mirror complete?")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
