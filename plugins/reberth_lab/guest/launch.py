"""Begins one node: enters its cgroup, makes its namespaces and its root, and becomes its pid 1.

Started as a file by the outer machine's Python with one argument, a JSON object: `name`, `root` (the shared root
filesystem), `mount` (an empty directory), `cgroup` (a directory on the cgroup2 mount), `size_bytes` (of the node's
writable layer) and `init` (text of the Python program for pid 1), or in its place `command` (a list of words, for a
root without Python) with `uid`. Prints nothing and ends with 0 when pid 1 runs; else the reason is on stderr.

Everything is mounted inside the new mount namespace, so the outer machine never sees a mount of a node and the kernel
removes them all with the last process of the node, however it ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import subprocess
import sys
import traceback

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x4000, 0x40000
MNT_DETACH = 2
CLONE_FLAGS = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
CHAR_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "net/tun": (10, 200),
}
INIT_PATH = "/usr/local/lib/reberth-lab/init.py"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raises OSError with errno's text when a system call said -1."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2), with the directory made before."""
    os.makedirs(target, exist_ok=True)
    result = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    check(result, f"mount {kind} on {target}")


def make_root(root: str, at: str, size_bytes: int) -> str:
    """Return a tmpfs at `at` with an overlay over `root` in it; returns the merged directory."""
    mount("tmpfs", at, "tmpfs", 0, f"size={size_bytes},mode=755")
    for part in ("upper", "work"):
        os.mkdir(f"{at}/{part}", 0o755)
    mount("overlay", f"{at}/root", "overlay", 0, f"lowerdir={root},upperdir={at}/upper,workdir={at}/work")
    return f"{at}/root"


def mount_kernel_filesystems(root: str, size_bytes: int) -> None:
    """/proc, /sys, cgroup2, /dev, /run and /tmp of the node."""
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", f"{root}/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("cgroup2", f"{root}/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", f"{root}/run", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=755,size={size_bytes}")
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={size_bytes}")
    mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k")
    mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=666,mode=620,gid=5")
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={size_bytes}")
    fill_dev(f"{root}/dev")


def fill_dev(dev: str) -> None:
    """Device nodes by mknod, not bind mounts: CRIU then sees no mount that comes from outside."""
    os.umask(0)
    os.mkdir(f"{dev}/net", 0o755)
    for name, (major, minor) in CHAR_DEVICES.items():
        os.mknod(f"{dev}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    if os.path.exists("/dev/userfaultfd"):
        os.mknod(f"{dev}/userfaultfd", stat.S_IFCHR | 0o600, os.stat("/dev/userfaultfd").st_rdev)
    os.umask(0o022)
    for link, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1")):
        os.symlink(target, f"{dev}/{link}")
    os.symlink("fd/2", f"{dev}/stderr")


def enter_root(root: str) -> None:
    """pivot_root, for CRIU must see the parent of every mount (chroot is not enough)."""
    os.mkdir(f"{root}/.outer", 0o700)
    os.chdir(root)
    subprocess.run(["pivot_root", ".", ".outer"], check=True, env={"PATH": PATH})
    os.chdir("/")
    check(libc.umount2(b"/.outer", MNT_DETACH), "umount of the outer root")
    os.rmdir("/.outer")


def become_init(arguments: dict[str, object], ready: int) -> None:
    """Runs as pid 1 of the new namespaces up to the exec of the init program; does not return."""
    name, size_bytes = str(arguments["name"]), int(str(arguments["size_bytes"]))
    check(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "make mounts private")
    root = make_root(str(arguments["root"]), str(arguments["mount"]), size_bytes)
    mount_kernel_filesystems(root, size_bytes)
    enter_root(root)
    check(libc.sethostname(name.encode(), len(name)), "sethostname")
    os.makedirs("/var/log", exist_ok=True)
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open("/var/log/lab-init.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    command = init_command(arguments)
    # Not one descriptor of the outer machine may stay: a dump of a process that has one fails ("Can't lookup mount").
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.set_inheritable(ready, False)  # its end of file tells the launcher that exec went well
    os.closerange(3, ready)
    os.closerange(ready + 1, 65536)
    uid = int(str(arguments.get("uid", 0)))
    if uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    os.execve(command[0], ["init", *command[1:]], {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"})


def init_command(arguments: dict[str, object]) -> list[str]:
    """Return the words that start pid 1; a Python program is written into the node first."""
    given = arguments.get("command")
    if isinstance(given, list):
        return [str(word) for word in given]
    os.makedirs(os.path.dirname(INIT_PATH), exist_ok=True)
    with open(INIT_PATH, "w", encoding="utf-8") as file:
        file.write(str(arguments["init"]))
    return ["/usr/bin/python3", "-I", "-S", INIT_PATH]


def launch(arguments: dict[str, object]) -> int:
    """Enters the cgroup, unshares, forks, and waits until pid 1 has started; returns the exit status."""
    with open(f"{arguments['cgroup']}/cgroup.procs", "w", encoding="ascii") as file:
        file.write("0")
    flags = sum(CLONE_FLAGS.values())
    check(libc.unshare(flags), "unshare")
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(readable)
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            become_init(arguments, writable)
        except BaseException:
            os.write(writable, traceback.format_exc()[-3000:].encode())
        os._exit(1)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        trouble = pipe.read().decode(errors="replace")
    sys.stderr.write(trouble)
    return 1 if trouble else 0


if __name__ == "__main__":
    import json

    sys.exit(launch(json.loads(sys.argv[1])))
