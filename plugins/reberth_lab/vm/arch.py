"""Which processors virtual nodes can have, and what differs between them: packages, QEMU's machine, patience."""

from __future__ import annotations

from dataclasses import dataclass

from reberth_lab.proc import LabError

X86_64, AARCH64 = "x86_64", "aarch64"  # as `uname -m` says


@dataclass(frozen=True)
class Arch:
    """One kind of processor. `debian` is its name in Debian, `package` the one with QEMU's `program` (`size`)."""

    name: str
    debian: str
    kernel: str
    program: str
    package: str
    size: str
    # The machine; the root disk's and the console's names inside are those of the kernel.
    board: tuple[str, ...]
    processor: str  # of an emulated one
    console: str
    boot_limit_s: int


# Debian's kernels for virtual machines: the same source and options as the big ones with a third of the modules. NVMe
# and ext4 are inside them, so they need no initramfs. The one of x86_64 has soft-dirty and userfaultfd, its sister
# for aarch64 userfaultfd alone: no kernel for aarch64 tracks written pages.
# erms, la57: a copy byte by byte and a fifth level of page tables are hardware's gain, and an emulator's loss.
ARCHES = {
    X86_64: Arch(
        name=X86_64,
        debian="amd64",
        kernel="linux-image-cloud-amd64",
        program="qemu-system-x86_64",
        package="qemu-system-x86",
        size="20 to 40 MB",
        board=(),
        processor="max,erms=off,la57=off",
        console="ttyS0",
        boot_limit_s=240,  # emulated nodes need 10 to 30 s; more, or others at work on the machine, take longer
    ),
    AARCH64: Arch(
        name=AARCH64,
        debian="arm64",
        kernel="linux-image-cloud-arm64",
        program="qemu-system-aarch64",
        package="qemu-system-arm",
        size="10 to 30 MB",
        board=("-machine", "virt,gic-version=3"),
        processor="cortex-a72",  # that of a Raspberry Pi 4, with the instructions for AES that it lacks
        console="ttyAMA0",
        boot_limit_s=900,
    ),
}


def of(name: str) -> Arch:
    """Return the processor of that name; raises LabError where there is none."""
    if name not in ARCHES:
        raise LabError(f"virtual nodes cannot be {name!r}", f"one of: {', '.join(ARCHES)}")
    return ARCHES[name]
