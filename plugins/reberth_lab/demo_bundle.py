"""A small OCI bundle with redis-server, made from the node's own files."""

from __future__ import annotations

import json
import re
from typing import Any

from reberth_lab.node import Node

BUNDLE = "/srv/redis"
CONTAINER = "redis"
PORT = 6379
SERVER = "/usr/bin/redis-server"
# All data in memory: the demo proves that memory moves, so nothing may come back from a file.
ARGS = {
    "bind": "0.0.0.0",
    "port": str(PORT),
    "protected-mode": "no",
    "save": "",
    "appendonly": "no",
    "daemonize": "no",
    "dir": "/data",
    "logfile": "/data/redis.log",
}
MASKED = ["/proc/kcore", "/proc/keys", "/proc/sysrq-trigger"]


def build(node: Node) -> None:
    """Makes the bundle at BUNDLE on `node`, replacing one that is there."""
    node.run(["rm", "-rf", BUNDLE])
    node.run(["mkdir", "-p", *(f"{BUNDLE}/rootfs/{name}" for name in ("data", "dev", "etc", "proc", "sys", "tmp"))])
    node.run(["cp", "-L", "--parents", SERVER, *_libraries(node), f"{BUNDLE}/rootfs"])
    node.write(f"{BUNDLE}/rootfs/etc/passwd", "root:x:0:0:root:/:/usr/sbin/nologin\n")
    node.write(f"{BUNDLE}/config.json", json.dumps(spec(), indent=1) + "\n")


def _libraries(node: Node) -> list[str]:
    """Return the shared libraries and the loader of the server, by their paths on the node (ldd(1))."""
    return re.findall(r"(/\S+) \(0x", node.run(["ldd", SERVER]).stdout)


def spec() -> dict[str, Any]:
    """Return the runtime configuration: root, the node's network namespace (none is listed), no terminal."""
    arguments = [SERVER, *(word for key, value in ARGS.items() for word in (f"--{key}", value))]
    flags = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"],
            "cwd": "/",
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "redis",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": flags},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=65536k"],
            },
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
            "maskedPaths": MASKED,
        },
    }
