"""States of tasks: namespaces, tracers, sessions, schedulers, memory shared with others."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
import time
from typing import Any

from doubtful.base import (
    CLONE_NEWNET,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    LIBC,
    buffer,
    call,
    checked,
    child,
    for_ever,
    state,
    unshare,
)

PTRACE_SEIZE, CLONE_VM, SCHED_DEADLINE = 0x4206, 0x100, 6
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_FILTER, NEW_LISTENER = 22, 38, 2, 8
NOBODY = 65534


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


ALLOW_ALL = buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))  # BPF_RET, SECCOMP_RET_ALLOW


def confine() -> Any:
    """A seccomp filter that allows everything."""
    checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    return ctypes.byref(Program(1, ctypes.addressof(ALLOW_ALL)))


@state()
def plain(place: str) -> Any:
    """Nothing special: the control."""


@state("nested")
def nested_user(place: str) -> Any:
    """A child in a user namespace."""
    return child(lambda: unshare(CLONE_NEWUSER))


@state("nested")
def nested_network(place: str) -> Any:
    """A child in a network namespace; CRIU notices it only at the restore."""
    return child(lambda: unshare(CLONE_NEWNET))


@state()
def own_network(place: str) -> Any:
    """A network of its own with the loopback interface alone, which CRIU makes again."""
    unshare(CLONE_NEWNET)
    return True


@state("nested")
def nested_pids(place: str) -> Any:
    """A sandbox."""

    def work() -> int:
        unshare(CLONE_NEWPID)
        return child(lambda: None)

    return child(work)


@state("nested")
def time_of_children(place: str) -> Any:
    """Children would get clocks of their own."""
    unshare(CLONE_NEWTIME)


@state("traced")
def traced(place: str) -> Any:
    """A child under a debugger."""
    pid = child(lambda: None)
    checked(LIBC.ptrace(PTRACE_SEIZE, pid, 0, 0), "ptrace")
    return pid


@state("session", "parent", keeps_session=True)
def session_outside(place: str) -> Any:
    """As started from a script without setsid."""


@state("capability")
def other_user(place: str) -> Any:
    """Of another user, where root lacks CAP_SYS_RESOURCE."""
    return child(lambda: os.setresuid(NOBODY, NOBODY, NOBODY))


@state("sysv-shm", warns=("sysv",))
def sysv_segment(place: str) -> Any:
    """Shared memory of the node's ipc namespace."""
    LIBC.shmat.restype = ctypes.c_void_p
    segment = checked(LIBC.shmget(0, ctypes.c_size_t(1 << 16), 0o1600), "shmget")
    at = LIBC.shmat(segment, None, 0)
    LIBC.shmctl(segment, 0, None)
    return at


@state(warns=("sysv",))
def sysv_queue(place: str) -> Any:
    """A queue and semaphores there: CRIU moves the process and says nothing."""
    queue = checked(LIBC.msgget(0, 0o1600), "msgget")
    checked(LIBC.msgsnd(queue, buffer(struct.pack("=q", 1) + b"hello"), ctypes.c_size_t(5), 0), "msgsnd")
    semaphores = checked(LIBC.semget(0, 1, 0o1600), "semget")
    checked(LIBC.semop(semaphores, buffer(struct.pack("=HhH", 0, 1, 0)), ctypes.c_size_t(1)), "semop")
    return queue, semaphores


@state("pidfd")
def pidfd_outside(place: str) -> Any:
    """A descriptor of a process that stays."""
    return os.pidfd_open(1)


@state("shared-vm")
def shared_memory(place: str) -> Any:
    """A child between vfork(2) and its exec."""
    stack = buffer(b"", 1 << 16)
    top = ctypes.c_void_p((ctypes.addressof(stack) + (1 << 16)) & ~15)
    return stack, checked(
        LIBC.clone(ctypes.cast(LIBC.pause, ctypes.c_void_p), top, CLONE_VM | signal.SIGCHLD, None), ""
    )


@state("scheduler")
def deadline(place: str) -> Any:
    """A scheduler with guarantees."""
    words = struct.pack("=IIQiIQQQ", 48, SCHED_DEADLINE, 0, 0, 0, 10_000_000, 30_000_000, 30_000_000)
    return call("sched_setattr", 0, buffer(words), 0)


@state("dead-leader")
def dead_leader(place: str) -> Any:
    """The first thread has ended, another one goes on."""

    def work() -> None:
        if os.fork() == 0:
            threading.Thread(target=for_ever, daemon=True).start()
            LIBC.syscall(60 if os.uname().machine == "x86_64" else 93, 0)
        time.sleep(0.2)

    return child(work)


@state("anon-inode")
def seccomp_listener(place: str) -> Any:
    """Somebody decides about system calls."""
    return child(lambda: call("seccomp", 1, NEW_LISTENER, confine()))


@state()
def good_tasks(place: str) -> Any:
    """Each of these looks odd, and all of them move."""
    if os.fork() == 0:
        os._exit(0)  # a zombie
    os.kill(child(lambda: None), signal.SIGSTOP)
    child(lambda: checked(LIBC.prctl(PR_SET_SECCOMP, SECCOMP_FILTER, confine(), 0, 0), "seccomp"))
    child(lambda: os.chroot(place))
    child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5)))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    threads = [threading.Thread(target=for_ever, daemon=True) for _ in range(10)]
    for one in threads:
        one.start()
    return threads
