"""A storage pool of LXD on each node, of the kind that a test wants; its kernel must have the driver."""

from __future__ import annotations

import json
from collections.abc import Sequence

from livekit import lxd as kit
from reberth_lab.node import Node

NAME = "moved"
# On files that loop devices carry. A volume of lvm has 10 GiB unless it is told, and a thin pool needs a GiB.
KINDS = {"dir": (), "btrfs": ("size=512MiB",), "lvm": ("size=1GiB", "volume.size=256MiB"), "zfs": ("size=1GiB",)}
# There is no udev in a virtual node: nobody loads these for the daemon, and lvm would wait in vain for its devices
# ("/dev/moved/lvol0: not found: device not cleared").
MODULES = {"btrfs": ("loop", "btrfs"), "lvm": ("loop", "dm_mod", "dm_thin_pool"), "zfs": ("zfs",), "dir": ()}
LVM = """activation { udev_sync=0 udev_rules=0 }
devices { obtain_device_list_from_udev=0 }
"""


def become(nodes: Sequence[Node], kinds: Sequence[str]) -> None:
    """Let the pool of each node be of its kind, none for an empty one; no instance may be in it."""
    for node, kind in zip(nodes, kinds, strict=True):
        said = kit.lxc(node, "query", f"/1.0/storage-pools/{NAME}", check=False)
        there = json.loads(said)["driver"] if said else ""
        if there and there != kind:
            kit.lxc(node, "storage", "delete", NAME)
        if kind and there != kind:
            node.write("/etc/lvm/lvmlocal.conf", LVM)
            if MODULES[kind]:
                node.run(["modprobe", "-a", *MODULES[kind]])
            kit.lxc(node, "storage", "create", NAME, kind, *KINDS[kind])
