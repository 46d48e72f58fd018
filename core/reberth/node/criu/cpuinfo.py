"""The processor as criu sees it: what one node has, compared by criu itself on another one."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Any

from reberth.node.system import spawn

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon

IMAGE = "cpuinfo.img"
MOST_BYTES = 1 << 16


def cpu_dump(daemon: Daemon, progress: Any) -> str:
    """Return what `criu cpuinfo dump` writes here, in base64.

    Empty where criu knows no such thing (an architecture).
    """
    place = tempfile.mkdtemp(prefix="cpu-", dir=daemon.dir)
    try:
        done = _criu("dump", place)
        path = os.path.join(place, IMAGE)
        if done["code"] != 0 or not os.path.isfile(path):
            return ""
        with open(path, "rb") as file:
            return base64.b64encode(file.read(MOST_BYTES)).decode("ascii")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def cpu_check(daemon: Daemon, progress: Any, image: str) -> list[str]:
    """Return what of another node's processor criu misses here, in criu's words; empty when nothing."""
    place = tempfile.mkdtemp(prefix="cpu-", dir=daemon.dir)
    try:
        with open(os.path.join(place, IMAGE), "wb") as file:
            file.write(base64.b64decode(image, validate=True)[:MOST_BYTES])
        done = _criu("check", place)
        if done["code"] == 0:
            return []
        with open(os.path.join(place, "cpu.log"), encoding="utf-8", errors="backslashreplace") as log:
            words = [line.partition("): ")[2].strip() for line in log if "Error" in line and "rlimit" not in line]
        return words or [f"criu cpuinfo check ended with {done['code']}"]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _criu(action: str, place: str) -> dict[str, Any]:
    return spawn.run(["criu", "cpuinfo", action, "--no-default-config", "-D", place, "-o", "cpu.log", "-v1"])
