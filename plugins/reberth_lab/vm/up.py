"""Starts virtual nodes and gives them what they must know: keys, addresses, the present code of reberth."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from reberth_lab import boot, cgroups, deliver, keys
from reberth_lab.proc import TOOL_PATH, LabError, Say, need, run
from reberth_lab.site import Site
from reberth_lab.vm import accel, image, machine, taps
from reberth_lab.vm.arch import X86_64, of
from reberth_lab.vm.image import Image
from reberth_lab.vm.node import BEHIND, MACHINE, VmNode, in_cgroup, pack

MEMORY_BYTES = 2 << 30
LEAST_MEMORY_BYTES = 640 << 20
START_LIMIT_S = 30
# What runs keeps its open files. Links and modes of folders that are there stay as they are.
REFRESH = 'rm -rf "$1.old"; mv "$1" "$1.old"; tar -x -C / --no-overwrite-dir && rm -rf "$1.old"'


def tools(arch: str) -> list[tuple[str, str, str]]:
    """Programs that nodes of this processor need here: name, Debian package, how much that downloads."""
    qemu = (of(arch).program, of(arch).package, of(arch).size)
    found = [qemu, ("mke2fs", "e2fsprogs", "less than 1 MB")]
    return found if arch == X86_64 else [*found, ("depmod", "kmod", "less than 1 MB")]


def prepare(
    site: Site,
    say: Say,
    *,
    install: bool = False,
    rebuild: bool = False,
    parts: Sequence[str] = (),
    arch: str = X86_64,
) -> Image:
    """Programs and disk image, installed and made now if they must be; raises LabError with the remedy."""
    if install and (missing := missing_tools(arch)):
        packages = [package for _, package, _ in tools(arch) if package in missing]
        say(f"installing {', '.join(f'{name} ({size})' for _, name, size in tools(arch) if name in missing)}")
        run(["apt-get", "update", "-q"], timeout_s=300)
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], timeout_s=600)
    for tool, package, _ in tools(arch):
        need(tool, f"{package} (or reberth lab up --kind vm --install)")
    return image.ensure(site.cache, say=say, install=install, rebuild=rebuild, parts=parts, arch=arch)


def missing_tools(arch: str = X86_64) -> list[str]:
    """Return the Debian packages with programs of this kind that are not installed."""
    return [package for tool, package, _ in tools(arch) if shutil.which(tool, path=TOOL_PATH) is None]


def bring_up(disk: Image, nodes: Sequence[VmNode], names: Sequence[str], say: Say) -> None:
    """Starts those that do not run, gives the others the present code, and waits until all can be used."""
    starting = [node for node in nodes if not node.alive]
    accelerator = accel.choose(disk, say) if starting else ""
    if starting:
        word = "run by KVM" if accelerator == machine.KVM else "emulated: 10 to 30 times slower than this machine"
        say(f"starting {len(starting)} virtual nodes, {word}")
    memory_bytes = share_of_memory(len(nodes))
    for node in starting:
        start(node, disk, accelerator, names, memory_bytes)
    deadline = time.monotonic() + of(disk.arch).boot_limit_s
    running = [node for node in nodes if node not in starting]
    for node in (*running, *starting):  # one that runs may be booting still, if its `up` was killed
        wait(node, deadline)
    refresh(running, names)


def start(node: VmNode, disk: Image, accelerator: str, names: Sequence[str], memory_bytes: int) -> None:
    """Starts a node's QEMU, which is waited for by `wait`; raises LabError."""
    site = node.site
    cgroups.remove(node.cgroup)  # what a killed start or a crashed node left
    for path in (node.socket_path, console(node), errors(node)):
        path.unlink(missing_ok=True)
    scratch = scratch_directory(site)
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_seed(node, names, emulated=accelerator == machine.TCG and disk.arch == X86_64)
    with contextlib.ExitStack() as stack:
        cables = []
        for make, address in ((taps.data, site.mac(node.number)), (taps.control, site.control_mac(node.number))):
            descriptor = make(site, node.number)
            stack.callback(os.close, descriptor)
            cables.append(machine.Cable(descriptor, address))
        argv = machine.argv(
            disk,
            accelerator,
            f"reberth-{site.name}-{node.name}",
            seed=seed_path(node),
            console=console(node),
            memory_bytes=memory_bytes,
            cables=cables,
        )
        words = in_cgroup(node.cgroup / MACHINE, ["sh", "-c", BEHIND, "sh", str(errors(node)), *argv])
        descriptors = [cable.descriptor for cable in cables]
        # QEMU keeps what the nodes write in files of TMPDIR, which it unlinks as soon as it has opened them.
        run(words, timeout_s=START_LIMIT_S, pass_fds=descriptors, env={"TMPDIR": str(scratch)})


def refresh(nodes: Sequence[VmNode], names: Sequence[str]) -> None:
    """Gives running nodes the present code, and the names and keys of all nodes."""
    for node in nodes:
        write_seed(node, names)
        with seed_path(node).open("rb") as stream:
            node.feed(["sh", "-c", REFRESH, "sh", f"/{deliver.HOME}"], stream)
        seed_path(node).unlink()


def wait(node: VmNode, deadline: float) -> None:
    """Waits until sshd answers on both cables; raises LabError with the last words of QEMU and of the console."""
    for address in (node.site.control_address(node.number), node.address):
        while not _greets(address):
            if not node.alive or time.monotonic() > deadline:
                state = "does not answer" if node.alive else "has ended"
                tail = "\n".join([*_tail(errors(node)), *_tail(console(node))])
                hint = "is there memory enough? `reberth lab down` removes what is there"
                raise LabError(f"{node.name} {state}; its last words:\n{tail or 'none'}", hint)
            time.sleep(0.2)
    node.connect()
    seed_path(node).unlink(missing_ok=True)


def share_of_memory(nodes: int) -> int:
    """Return what each of so many nodes gets: 2 GiB, or its share of 60 % of this machine's memory; raises LabError."""
    share = min(MEMORY_BYTES, boot.layer_bytes(nodes))
    if share < LEAST_MEMORY_BYTES:
        raise LabError(f"this machine has too little memory for {nodes} virtual nodes", "take fewer nodes")
    return share


def console(node: VmNode) -> Path:
    """Return the file that takes what the node's kernel prints."""
    return node.site.state / f"{node.name}.console"


def errors(node: VmNode) -> Path:
    """Return the file that takes what its QEMU says."""
    return node.site.state / f"{node.name}.qemu"


def seed_path(node: VmNode) -> Path:
    """Return a tar archive with all that makes this node differ from the others; there while it starts."""
    return node.site.state / f"{node.name}.tar"


def scratch_directory(site: Site) -> Path:
    """Return where QEMU makes the files without a name that hold what the nodes write: on disk, not in memory."""
    return site.cache / f"scratch-{site.name}"


def write_seed(node: VmNode, names: Sequence[str], *, emulated: bool = False) -> None:
    """Keys and names of all nodes, this one's addresses, the present code of reberth; ciphers for an emulated one."""
    site = node.site
    with tempfile.TemporaryDirectory(dir=site.state) as folder:
        root = Path(folder)
        (root / "usr/local/bin").mkdir(parents=True)
        keys.write_node(site, names, node.name, root)
        deliver.deliver(deliver.find(), root)
        (root / "etc/reberth-lab").mkdir()
        if emulated:
            (root / "etc/ssh/sshd_config.d/emulated.conf").write_text(machine.SSHD_CONFIG, encoding="ascii")
            (root / machine.CIPHER_FILE).write_text(machine.CIPHER_CONFIG, encoding="ascii")
        network = f"address={node.address}\ncontrol={site.control_address(node.number)}\nouter={site.control_outer}\n"
        (root / "etc/reberth-lab/network").write_text(network, encoding="ascii")
        with seed_path(node).open("wb") as stream:
            pack(stream, root)


def _greets(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            connection.settimeout(10)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _tail(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    except OSError:
        return []
