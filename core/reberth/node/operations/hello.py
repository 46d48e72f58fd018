"""What a node says of itself when a helper starts there."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from typing import Any

from reberth.node.attributes import tasks
from reberth.node.freeze import cgroup
from reberth.node.runs import run
from reberth.node.system import procs, spawn
from reberth.node.system.durable import boottime_ns


def hello(daemon: Any, progress: Any) -> dict[str, Any]:
    """Return who and what this node is."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        memory = {k: int(v.split()[0]) * 1024 for k, v in (line.split(":") for line in lines)}
    return {
        "hostname": platform.node(),
        "arch": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "uid": os.getuid(),
        "boot_id": run.boot_id(),
        "pid_ns": procs.link("/proc/self/ns/pid"),
        "time_ns": procs.link("/proc/self/ns/time"),
        "cgroup2": cgroup.mount_point(),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "clock_realtime_ns": time.time_ns(),
        "clock_boottime_ns": boottime_ns(),
        "processors": tasks.here(),
        "mem_available_bytes": memory.get("MemAvailable", 0),
        "pipe_max_bytes": _number("/proc/sys/fs/pipe-max-size"),
        "cap_eff": procs.capabilities(),
        "direct_lacks": spawn.direct_lacks(),
    }


def _number(path: str) -> int:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return int(file.read())
    return 0
