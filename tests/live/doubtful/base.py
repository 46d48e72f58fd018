"""What the states are made of: their list, system calls that Python has no words for, children that keep a state."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
# One number on all architectures since 424; older calls are those of x86-64 and of the generic table.
CALLS = {
    "io_uring_setup": 425,
    "landlock_create_ruleset": 444,
    "landlock_restrict_self": 446,
    "memfd_secret": 447,
    "userfaultfd": 323 if X86 else 282,
    "bpf": 321 if X86 else 280,
    "seccomp": 317 if X86 else 277,
    "sched_setattr": 314 if X86 else 274,
    "io_setup": 206 if X86 else 0,
    "exit": 60 if X86 else 93,
}
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWPID = 0x10000000, 0x40000000, 0x20000000
CLONE_NEWTIME = 0x80


@dataclass(frozen=True)
class State:
    """One program: what makes its state, and the checks that must fail for it; none: it moves."""

    make: Callable[[str], Any]
    checks: tuple[str, ...]
    warns: tuple[str, ...] = ()
    keeps_session: bool = False


STATES: dict[str, State] = {}


def state(*checks: str, warns: tuple[str, ...] = (), keeps_session: bool = False) -> Callable[[Any], Any]:
    """Put a function into the list; it gets the program's folder and answers what must be kept alive."""

    def register(make: Callable[[str], Any]) -> Callable[[str], Any]:
        STATES[make.__name__.replace("_", "-")] = State(make, checks, warns, keeps_session)
        return make

    return register


def checked(found: int, name: str) -> int:
    """The answer of a system call, or its error."""
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return int(found)


def call(name: str, *words: Any) -> int:
    """A system call by name."""
    return checked(LIBC.syscall(ctypes.c_long(CALLS[name]), *words), name)


def unshare(flags: int) -> None:
    """Leave namespaces."""
    checked(LIBC.unshare(flags), "unshare")


def for_ever() -> None:
    """Sleep until killed."""
    while True:
        time.sleep(1)


def child(work: Callable[[], Any]) -> int:
    """A child process that makes a state and keeps it; returns its pid when that is done."""
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        try:
            kept = work()
        except BaseException as error:
            os.write(done, repr(error).encode())
            os._exit(1)
        os.write(done, b"+")  # a grandchild may hold this end open
        os.close(done)
        while kept is not STATES:
            time.sleep(1)
    os.close(done)
    words = os.read(ready, 4096)
    os.close(ready)
    if words != b"+":
        raise RuntimeError(words.decode())
    return pid


def buffer(data: bytes, size: int = 0) -> Any:
    """Bytes in memory that a system call may read."""
    return ctypes.create_string_buffer(data, size or len(data))
