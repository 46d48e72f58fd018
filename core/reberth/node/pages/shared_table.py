"""Processes that share the daemon's table of open files, so that its death closes nothing.

A missing page reads as zeros once the last descriptor of its userfaultfd is closed. CRIU's daemon closes one as soon as
its process has every page, and relies on that close being the last: else the next event of that process wakes its epoll
over a freed record. So there may be no copy of it, and yet something must hold what a dead daemon leaves. A process
made by clone(CLONE_FILES) does both: what the daemon closes is closed for both, and what it had open as it died stays.

exec(2) ends such sharing, so the clone is made right after it: the daemon is traced over its exec, calls clone with two
instructions that are put where it would begin, and begins. What it made sleeps until it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import subprocess
import time
from typing import NamedTuple

from reberth.node.errors import OpError
from reberth.node.system import procs

NAME = b"reberth-holder"
KIND = "anon_inode:[userfaultfd]"
LIMIT_S = 10.0
# Stops before it becomes the tool; a file at its limit is then an error of write(2) and no end.
STOPPED = "trap '' XFSZ; kill -STOP $$; exec \"$@\""
CONT, DETACH, SEIZE, GETREGSET, SETREGSET, POKEDATA = 7, 17, 0x4206, 0x4204, 0x4205, 5
TRACE_EXEC, EXIT_KILL = 0x10, 0x100000
EVENT_EXEC = 4
NT_PRSTATUS = 1
# CLONE_PARENT: ours to wait for, and nothing that CRIU could take for a child of its own.
CLONE_FILES, CLONE_PARENT = 0x400, 0x8000


class Machine(NamedTuple):
    """One processor: its code, where its registers are in NT_PRSTATUS, and what they are set to for clone(2)."""

    code: bytes
    registers: int
    program_counter: int
    result: int
    set: dict[int, int]
    name_at: int  # the register that holds the address of NAME


# The clone, with its number set by the code: the first stop is inside of execve, whose result is yet to be written. Its
# maker stops. The new one calls prctl(PR_SET_NAME) and setsid(), then it sleeps for ever.
X86_64 = Machine(
    bytes.fromhex(
        "b838000000 0f05 85c0 7401 cc"  # eax=56 syscall; test eax,eax; jz +1; int3
        "b89d000000 bf0f000000 4c89e6 0f05"  # eax=157 edi=15 rsi=r12 syscall
        "b870000000 0f05"  # eax=112 syscall
        "b822000000 0f05 ebf7"  # eax=34 (pause) syscall; again
    ),
    registers=27,
    program_counter=16,
    result=10,
    # orig_rax (no system call that would be begun again), rdi, rsi, rdx, r10, r8
    set={15: (1 << 64) - 1, 14: CLONE_FILES | CLONE_PARENT, 13: 0, 12: 0, 7: 0, 9: 0},
    name_at=3,
)
AARCH64 = Machine(
    struct.pack(
        "<18I",
        *(0xD2908000, 0xD4000001, 0xB4000040, 0xD4200000),  # x0=flags svc; cbz x0, +8; brk
        *(0xD28014E8, 0xD28001E0, 0xAA1303E1, 0xD4000001),  # x8=167 x0=15 x1=x19 svc
        *(0xD28013A8, 0xD4000001),  # x8=157 svc
        *(0xD2800928, 0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD4000001, 0x17FFFFFA),  # ppoll; again
        0xD503201F,
    ),
    registers=34,
    program_counter=32,
    result=0,
    set={8: 220, 1: 0, 2: 0, 3: 0, 4: 0},
    name_at=19,
)
MACHINES = {"x86_64": X86_64, "aarch64": AARCH64}


class Holder(NamedTuple):
    """A process that shares the table: the pid with its start is its identity."""

    pid: int
    start_ticks: int


class _Iov(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def stopped(argv: list[str]) -> list[str]:
    """Return the words that start a program which waits for `begin` before it is itself."""
    return ["/bin/sh", "-c", STOPPED, "sh", *argv]


def begin(process: subprocess.Popen[bytes], holders: int, *, file_bytes: int) -> list[Holder]:
    """Let a program that was started by `stopped` begin, with so many processes beside it that share its table.

    No file that it writes grows over `file_bytes`. Raises OpError `lazy-pages`; the program is dead then.
    """
    made: list[Holder] = []
    try:
        machine = MACHINES.get(os.uname().machine)
        if machine is None:
            raise OSError(f"not on a processor of kind {os.uname().machine}")
        _wait_stop(process)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        _over_exec(process)
        for _ in range(holders):
            made.append(_clone(process, machine))
        _ptrace(DETACH, process.pid, 0, 0)
        for one in made:
            _rename(one.pid)
    except (OSError, ValueError, struct.error) as error:
        process.kill()
        for one in made:
            end(one)
        process.wait()
        text = f"no process could be made that holds what criu lazy-pages holds: {error}"
        raise OpError("lazy-pages", text, hint="is ptrace(2) forbidden here? --no-lazy-restore needs none") from error
    return made


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if libc.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")


def _wait_stop(process: subprocess.Popen[bytes]) -> int:
    """Wait until it stands still; returns the signal, with the event of ptrace(2) above it. Its end is left there."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        found = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if found is not None and found.si_code in (os.CLD_STOPPED, os.CLD_TRAPPED):
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            return found.si_status
        if found is not None:
            raise OSError(f"it ended with {found.si_status} before it began")
        if time.monotonic() > deadline:
            raise OSError(f"it did not begin within {LIMIT_S:g} s")
        time.sleep(0.0005)


def _over_exec(process: subprocess.Popen[bytes]) -> None:
    """Trace it from where it stopped until it is the program itself, before that program's first instruction."""
    _ptrace(SEIZE, process.pid, 0, TRACE_EXEC | EXIT_KILL)
    os.kill(process.pid, signal.SIGCONT)
    while (status := _wait_stop(process)) >> 8 != EVENT_EXEC:
        event, number = status >> 8, status & 0x7F
        _ptrace(CONT, process.pid, 0, 0 if event or number == signal.SIGTRAP else number)


def _clone(process: subprocess.Popen[bytes], machine: Machine) -> Holder:
    """Let the stopped program make one more process, and stand where it stood."""
    pid = process.pid
    before = _registers(pid, machine)
    place = before[machine.program_counter]
    code = machine.code + NAME + b"\0"
    code += bytes(-len(code) % 8)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        text = os.pread(memory.fileno(), len(code), place)
    if len(text) != len(code):
        raise OSError("its first instructions cannot be read")
    registers = list(before)
    for number, value in machine.set.items():
        registers[number] = value
    registers[machine.name_at] = place + len(machine.code)
    _poke(pid, place, code)
    _set_registers(pid, registers)
    _ptrace(CONT, pid, 0, 0)
    status = _wait_stop(process)
    if status != signal.SIGTRAP:
        raise OSError(f"it met signal {status & 0x7F} where it should have made a process")
    result = ctypes.c_int64(_registers(pid, machine)[machine.result]).value
    _poke(pid, place, text)
    registers = list(before)
    registers[machine.result] = 0  # of execve
    _set_registers(pid, registers)
    if result <= 0:
        raise OSError(-result, f"clone: {os.strerror(-result)}")
    found = procs.task(result)
    return Holder(result, found.start_ticks if found else 0)


def _poke(pid: int, place: int, data: bytes) -> None:
    for offset in range(0, len(data), 8):
        _ptrace(POKEDATA, pid, place + offset, int.from_bytes(data[offset : offset + 8], "little"))


def _registers(pid: int, machine: Machine) -> tuple[int, ...]:
    buffer = ctypes.create_string_buffer(1024)
    iov = _Iov(ctypes.addressof(buffer), len(buffer))
    _ptrace(GETREGSET, pid, NT_PRSTATUS, ctypes.addressof(iov))
    if iov.size != 8 * machine.registers:
        raise OSError("it is a program for another processor than its kernel")
    return struct.unpack(f"<{machine.registers}Q", buffer.raw[: iov.size])


def _set_registers(pid: int, registers: list[int] | tuple[int, ...]) -> None:
    data = struct.pack(f"<{len(registers)}Q", *registers)
    buffer = ctypes.create_string_buffer(data, len(data))
    iov = _Iov(ctypes.addressof(buffer), len(data))
    _ptrace(SETREGSET, pid, NT_PRSTATUS, ctypes.addressof(iov))


def _rename(pid: int) -> None:
    """Hide the command line: a program that ends the daemon by it must not end this one too."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        words = file.read().rpartition(")")[2].split()
    first, last = int(words[45]), int(words[46])  # arg_start and arg_end of proc_pid_stat(5)
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        os.pwrite(memory.fileno(), NAME[: last - first - 1].ljust(last - first, b"\0"), first)


def count(pid: int) -> int:
    """Return how many userfaultfds a process has open; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        place = f"/proc/{pid}/fd"
        return sum(procs.link(f"{place}/{name}") == KIND for name in os.listdir(place))
    return 0


def end(holder: Holder) -> None:
    """Kill one, our child or a dead helper's; the last to end closes what all of them held."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(holder.pid)
        try:
            if procs.alive(*holder):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
        deadline = time.monotonic() + LIMIT_S
        while procs.alive(*holder) and time.monotonic() < deadline:
            time.sleep(0.001)
        os.waitpid(holder.pid, os.WNOHANG)
