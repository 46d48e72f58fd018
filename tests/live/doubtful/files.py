"""States of files, devices, terminals and descriptors without a name."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import pty
import select
import shutil
import struct
import time
from typing import Any

from doubtful.base import LIBC, X86, buffer, call, checked, child, for_ever, state

MAP_HUGETLB, MAP_NORESERVE = 0x40000, 0x4000
F_OFD_SETLK, IN_MODIFY, UFFD_USER_MODE = 37, 2, 1


def open_file(path: str, mode: str = "rb") -> Any:
    """Open and stay so."""
    return open(path, mode, buffering=0)


@state("io-uring")
def io_uring(place: str) -> Any:
    """Its rings are memory shared with the kernel."""
    return call("io_uring_setup", 4, buffer(b"", 120))


@state("hugetlb")
def hugetlb(place: str) -> Any:
    """A mapping of huge pages; none need be there."""
    LIBC.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE
    at = LIBC.mmap(None, ctypes.c_size_t(2 << 20), 3, flags, -1, 0)
    checked(-1 if at == ctypes.c_void_p(-1).value else 0, "mmap")
    return at


@state("mounts")
def memfd_secret(place: str) -> Any:
    """Memory that the kernel itself cannot read."""
    return call("memfd_secret", 0)


@state("mqueue")
def posix_queue(place: str) -> Any:
    """A message queue of a filesystem that is mounted nowhere here."""
    library = ctypes.CDLL("librt.so.1", use_errno=True)
    return checked(library.mq_open(b"/doubtful", os.O_RDWR | os.O_CREAT, 0o600, None), "mq_open")


@state("devices")
def device(place: str) -> Any:
    """A device other than /dev/null and its like."""
    return open_file("/dev/net/tun", "r+b")


@state("anon-inode")
def userfault(place: str) -> Any:
    """Somebody serves page faults already."""
    return call("userfaultfd", UFFD_USER_MODE)


@state("anon-inode")
def bpf_map(place: str) -> Any:
    """A map of a BPF program."""
    return call("bpf", 0, buffer(struct.pack("=5I", 2, 4, 8, 4, 0), 128), 72)


@state("watches")
def inotify(place: str) -> Any:
    """A watch on an overlay filesystem, as the lab's nodes have."""
    queue = LIBC.inotify_init()
    checked(LIBC.inotify_add_watch(queue, place.encode(), IN_MODIFY), "inotify_add_watch")
    return queue


@state("ghosts")
def ghost_large(place: str) -> Any:
    """A deleted file that is larger than the limit."""
    file = open_file(f"{place}/ghost", "wb")
    for _ in range(66):
        file.write(b"x" * (1 << 20))
    os.unlink(f"{place}/ghost")
    return file


@state()
def other_name(place: str) -> Any:
    """The name is deleted, the file has another one in its folder."""
    file = open_file(f"{place}/gone", "wb")
    os.link(f"{place}/gone", f"{place}/other")
    os.unlink(f"{place}/gone")
    return file


@state("link-remap")
def other_name_elsewhere(place: str) -> Any:
    """The same, and the other name is in another folder."""
    os.makedirs(f"{place}/folder", exist_ok=True)
    file = open_file(f"{place}/gone", "wb")
    os.link(f"{place}/gone", f"{place}/folder/other")
    os.unlink(f"{place}/gone")
    return file


@state()
def lock_waits(place: str) -> Any:
    """A child waits for a lock that its parent has: both travel."""
    file = open_file(f"{place}/one", "r+b")
    fcntl.flock(file, fcntl.LOCK_EX)
    ready, done = os.pipe()
    if os.fork() == 0:
        other = open_file(f"{place}/one", "r+b")
        os.write(done, b"+")
        fcntl.flock(other, fcntl.LOCK_EX)
        for_ever()
    os.read(ready, 1)
    time.sleep(0.1)  # from the word to the wait
    return file


@state(warns=("shared-files", "written-outside"))
def shared_offset(place: str) -> Any:
    """A process outside has a file open by the same description: it was forked off and its parent ended."""
    file = open_file(f"{place}/one", "r+b")
    ready, done = os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            os.setsid()
            os.write(done, b"+")
            os.close(ready)
            os.close(done)
            for_ever()
        os._exit(0)
    os.waitpid(middle, 0)
    os.read(ready, 1)
    os.close(ready)
    os.close(done)
    return file


@state("files")
def only_here(place: str) -> Any:
    """A file that the target has not."""
    return open_file(f"{place}/only-here")


@state("files")
def other_size(place: str) -> Any:
    """A file that is longer there."""
    return open_file(f"{place}/other-size")


@state("files")
def other_mode(place: str) -> Any:
    """A file that has other permissions there."""
    return open_file(f"{place}/other-mode")


@state("files")
def other_build(place: str) -> Any:
    """A library of the same size and mode, but of another build, there."""
    with open_file(f"{place}/other-build") as file:
        return mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)


@state("terminal")
def foreign_terminal(place: str) -> Any:
    """A terminal whose other end is elsewhere."""
    with open(f"{place}/terminal") as name:
        return os.open(name.read(), os.O_RDWR | os.O_NOCTTY)


@state()
def good_terminals(place: str) -> Any:
    """Both ends are here."""
    pid, controlling = pty.fork()
    if pid == 0:
        for_ever()
    return controlling, pty.openpty()


@state()
def good_files(place: str) -> Any:
    """Each of these looks odd, and all of them move."""
    locks = [open_file(f"{place}/{name}", "r+b") for name in ("one", "two", "three")]
    fcntl.flock(locks[0], fcntl.LOCK_EX)
    fcntl.fcntl(locks[1], F_OFD_SETLK, struct.pack("=hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    fcntl.fcntl(locks[2], fcntl.F_SETLEASE, fcntl.F_WRLCK)
    sparse = open_file(f"{place}/sparse", "wb")
    sparse.truncate(200 << 20)
    os.unlink(f"{place}/sparse")
    nameless = os.open(place, os.O_TMPFILE | os.O_RDWR)
    program = f"{place}/program"
    shutil.copy("/bin/sleep", program)
    if os.fork() == 0:
        os.execv(program, ["program", "1000"])
    time.sleep(0.2)
    os.unlink(program)  # the file of a running program is replaced by an update
    zeros = open_file("/dev/zero", "r+b")
    context = ctypes.c_ulong(0)
    if X86:
        call("io_setup", 8, ctypes.byref(context))
    poll, (reader, writer) = select.epoll(), os.pipe()
    poll.register(reader, select.EPOLLIN)
    other = os.dup(reader)
    os.close(reader)
    return (
        *(locks, sparse, nameless, poll, other, writer, os.memfd_create("x"), os.timerfd_create(time.CLOCK_MONOTONIC)),
        *(os.pidfd_open(child(lambda: None)), os.open(f"{place}/pipe", os.O_RDWR), os.open(place, os.O_PATH)),
        *(open_file("/proc/self/status"), open_file("/proc/1/status"), open_file("/proc/self/ns/net")),
        *(open_file("/sys/kernel/mm/transparent_hugepage/enabled"), checked(LIBC.fanotify_init(0, 0), "fanotify")),
        *(zeros, mmap.mmap(zeros.fileno(), 4096)),
    )
