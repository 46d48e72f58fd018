"""Writes, on a node, an OCI bundle that runs a workload: a root file system of python3 and what it loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

INSIDE = "/workloads"
STATE = "/state"
FOLDERS = ("proc", "sys", "dev", "tmp", "etc", "run", "usr", "data", "state")
CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETUID",
]
DESCRIPTORS = 4096


def write_bundle(path: str, arguments: list[str], *, mounted: bool, host_pid: bool, host_net: bool) -> None:
    """Create the bundle in ``path`` (which must not exist) by ``runc spec`` and an adapted config.json."""
    root = os.path.join(path, "rootfs")
    os.makedirs(root)
    for folder in FOLDERS:
        os.makedirs(os.path.join(root, folder))
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink("/" + name):
            os.symlink(os.readlink("/" + name), os.path.join(root, name))
    here = os.path.dirname(os.path.abspath(__file__))
    shutil.copytree(here, root + INSIDE, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    if not mounted:
        for needed in needed_files():
            copy_with_links(needed, root)
    subprocess.run(["runc", "spec", "--bundle", path], check=True)
    config_path = os.path.join(path, "config.json")
    with open(config_path, encoding="utf-8") as stream:
        config = json.load(stream)
    adapt(config, arguments, mounted=mounted, host_pid=host_pid, host_net=host_net)
    with open(config_path, "w", encoding="utf-8") as stream:
        json.dump(config, stream, indent=1)


def adapt(config: dict[str, Any], arguments: list[str], *, mounted: bool, host_pid: bool, host_net: bool) -> None:
    """Turn the configuration of ``runc spec`` into one that runs a workload without a terminal."""
    kind, *options = arguments
    python = [os.path.realpath(sys.executable), "-S", "-B", INSIDE]
    config["process"].update(
        terminal=False,
        args=[*python, kind, "--foreground", "--dir", STATE, *options],
        cwd="/",
        capabilities={name: CAPABILITIES for name in ("bounding", "effective", "permitted")},
        rlimits=[{"type": "RLIMIT_NOFILE", "hard": DESCRIPTORS, "soft": DESCRIPTORS}],
    )
    config["root"] = {"path": "rootfs", "readonly": False}
    config["hostname"] = "workload"
    left_out = {name for name, wanted in (("pid", host_pid), ("network", host_net)) if wanted}
    namespaces = config["linux"]["namespaces"]
    config["linux"]["namespaces"] = [one for one in namespaces if one["type"] not in left_out]
    if mounted:
        bind = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
        config["mounts"].append(bind)


def needed_files() -> list[str]:
    """What this very process has loaded: python3, its libraries, the loader, the modules of the workloads."""
    # A few modules are imported by the C code or late, on the first error: they must be there too.
    import encodings.idna  # noqa: F401
    import linecache  # noqa: F401

    here = os.path.dirname(os.path.abspath(__file__))
    found = {os.path.realpath(sys.executable), sys.executable}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and not os.path.abspath(path).startswith(here):
            found.add(os.path.abspath(path))
    with open("/proc/self/maps", encoding="utf-8") as stream:
        for line in stream:
            path = line.rstrip("\n").partition("/")[2]
            if path and os.path.isfile("/" + path):
                found |= _names_of_library("/" + path)
    return sorted([*found, *(one for one in _loader_files() if os.path.exists(one))])


def _names_of_library(path: str) -> set[str]:
    """A mapped file and the links beside it (libz.so.1 -> libz.so.1.3.1) by which the loader asks for it."""
    folder = os.path.dirname(path)
    links = {entry.path for entry in os.scandir(folder) if entry.is_symlink() and os.path.realpath(entry.path) == path}
    return {path} | (links if ".so" in path else set())


def _loader_files() -> list[str]:
    """The dynamic loader by the name that executables ask for, and its cache."""
    return ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/etc/ld.so.cache"]


def copy_with_links(path: str, root: str) -> None:
    """Copy a file below ``root`` at the same path, and each symbolic link on the way to it."""
    folder = os.path.realpath(os.path.dirname(path))
    path = os.path.join(folder, os.path.basename(path))
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target):
        return
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        copy_with_links(os.path.join(folder, os.readlink(path)), root)
    else:
        shutil.copy2(path, target)
