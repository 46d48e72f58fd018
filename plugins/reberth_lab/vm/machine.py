"""The virtual machine as QEMU's argument list."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reberth_lab.vm.arch import X86_64, of
from reberth_lab.vm.image import INIT, Image

KVM, TCG = "kvm", "tcg"
# OpenSSL is slow where it believes in what is emulated (sha-ni, AVX2, AVX, SSSE3, PCLMULQDQ): told not to, SHA-256 and
# ChaCha20 are five times faster and more, AES-GCM three times (QEMU 7.2, 2026-11-28). The processor must keep them:
# without SSSE3 Debian's init dies.
PLAIN_OPENSSL = "OPENSSL_ia32cap=~0x1000020200000000:~0x20000020"
# ChaCha20 is four times as fast as AES-GCM then: for sshd, and for connections straight from node to node.
CIPHER_FILE = "etc/reberth-lab/openssl.cnf"
CIPHER_CONFIG = """openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = suites
[suites]
Ciphersuites = TLS_CHACHA20_POLY1305_SHA256
[req]
distinguished_name = none
[none]
"""
SSHD_CONFIG = f"SetEnv {PLAIN_OPENSSL} OPENSSL_CONF=/{CIPHER_FILE}\nCiphers chacha20-poly1305@openssh.com\n"
PROBE_WORDS = "lab: the kernel has started its first program"  # said by guest/vm-init.sh
# Only the machine and its devices: what would let a guest that broke out start programs or change its rights is closed.
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Cable:
    """A network device of the guest: the descriptor of its tap outside, its hardware address inside."""

    descriptor: int
    mac: str


def argv(
    image: Image, accel: str, name: str, *, seed: Path, console: Path, memory_bytes: int, cables: Sequence[Cable]
) -> list[str]:
    """QEMU with two disks (what the node writes goes to a file without a name) and its cables."""
    words = [
        *_machine(image, accel, memory_bytes),
        *("-name", name, "-sandbox", SANDBOX, "-serial", f"file:{console}"),
        # Not NVMe: of two such disks, which the kernel probes in parallel, any may become the first. This is /dev/vda.
        *(*_drive("seed", seed), "-device", "virtio-blk-pci,drive=seed"),
        *("-object", "rng-random,filename=/dev/urandom,id=random", "-device", "virtio-rng-pci,rng=random"),
    ]
    for number, cable in enumerate(cables):
        device = f"virtio-net-pci,netdev=cable{number},mac={cable.mac},romfile="
        words += ["-netdev", f"tap,id=cable{number},fd={cable.descriptor}", "-device", device]
    return words


def probe_argv(image: Image, accel: str) -> list[str]:
    """Return a machine that says on standard output that it has booted, and switches itself off."""
    return [*_machine(image, accel, 512 << 20, "lab.probe"), "-serial", "stdio"]


def _machine(image: Image, accel: str, memory_bytes: int, *words: str) -> list[str]:
    # mitigations=off: an emulated processor needs none, and they cost. -no-reboot, panic=-1: a dead kernel ends QEMU.
    arch = of(image.arch)
    kernel = ["root=/dev/nvme0n1", "rw", f"init={INIT}", f"console={arch.console}", "panic=-1", "mitigations=off"]
    if accel == TCG and arch.name == X86_64:
        kernel.append(PLAIN_OPENSSL)  # what the kernel does not know becomes the environment of its first program
    processor = ("kvm", "-cpu", "host") if accel == KVM else ("tcg,thread=multi", "-cpu", arch.processor)
    return [
        *(arch.program, *arch.board, "-accel", *processor, "-smp", "1", "-m", f"{memory_bytes >> 20}M"),
        *("-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-kernel", str(image.kernel), "-append", " ".join([*kernel, *words])),
        *(*_drive("root", image.disk), "-device", "nvme,drive=root,serial=lab"),
    ]


def _drive(name: str, path: Path) -> list[str]:
    # A comma in a file's name is doubled, for QEMU's options are separated by commas.
    file = os.fspath(path).replace(",", ",,")
    return ["-drive", f"file={file},format=raw,if=none,id={name},snapshot=on,cache=unsafe"]
