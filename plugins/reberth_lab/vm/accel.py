"""KVM or emulation: decided by booting, for a /dev/kvm that opens is no proof (nested and filtered ones fail later)."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from reberth_lab.proc import LabError, Say, run
from reberth_lab.vm import machine
from reberth_lab.vm.arch import of
from reberth_lab.vm.image import Image

PROBE_LIMIT_S = 20
MEMORY = "kvm.json"  # in the image's folder; true until this machine or its QEMU is another one


def choose(image: Image, say: Say) -> str:
    """`kvm` where this image has really booted with it on this machine, else `tcg`."""
    if image.arch != platform.machine() or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return machine.TCG
    memory = image.home / MEMORY
    now = _situation()
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if known.get("situation") != now:
        known = {"situation": now, "boots": boots_with_kvm(image)}
        part = memory.with_name(f"{MEMORY}.{os.getpid()}")
        part.write_text(json.dumps(known) + "\n", encoding="utf-8")
        part.replace(memory)
        if not known["boots"]:
            say("/dev/kvm is here, but the kernel does not boot with it: the nodes are emulated")
    return machine.KVM if known["boots"] else machine.TCG


def boots_with_kvm(image: Image) -> bool:
    """Tell whether the kernel gets as far as its first program within some seconds."""
    argv = machine.probe_argv(image, machine.KVM)
    try:
        # Killed with `up`, and by the time limit; nothing else has to be removed.
        done = run(["setpriv", "--pdeathsig", "KILL", *argv], check=False, timeout_s=PROBE_LIMIT_S)
    except LabError:
        return False
    return done.returncode == 0 and machine.PROBE_WORDS in done.stdout


def _situation() -> list[str]:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return [boot_id, run([of(platform.machine()).program, "--version"]).stdout.splitlines()[0]]
