"""Names, paths and addresses of one lab; everything that makes two labs on one machine differ."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from reberth_lab.proc import LabError

DEFAULT_NAME = "lab"
DEFAULT_SUBNET = "198.51.100.0/24"  # RFC 5737, for documentation: no real network has it
OTHER_LABS = "198.18.0.0/15"  # RFC 2544, for benchmarks between devices
BRIDGE_HOST = 254
CONTROL_HOST = 253
CONTROL_BASE = 100  # node7 has .7 on the bridge and .107 on the cable that only the lab uses (kind vm)
MAX_NODES = 99


@dataclass(frozen=True)
class Site:
    """Where one lab lives: state (gone after down), cache (stays), bridge and subnet (a /24)."""

    name: str
    subnet: IPv4Network
    state: Path
    cache: Path

    @staticmethod
    def of(name: str | None = None, subnet: str | None = None) -> Site:
        """Return the lab `name` (else `REBERTH_LAB_NAME`, else the default); raises LabError for an unusable name."""
        name = name or os.environ.get("REBERTH_LAB_NAME") or DEFAULT_NAME
        if not re.fullmatch(r"[a-z][a-z0-9]{0,9}", name):
            raise LabError(f"{name!r} is no lab name", "1 to 10 of a-z and 0-9, beginning with a letter")
        state = Path("/run") / ("reberth-lab" if name == DEFAULT_NAME else f"reberth-{name}")
        cache = Path(os.environ.get("REBERTH_LAB_CACHE") or "/var/cache/reberth-lab")
        return Site(name, IPv4Network(subnet) if subnet else default_subnet(name), state, cache)

    @property
    def tag(self) -> str:
        """Return the prefix of the lab's network interfaces, whose names have at most 15 characters (IFNAMSIZ - 1)."""
        return f"rb{self.name}"

    @property
    def bridge(self) -> str:
        """Return the bridge on the outer machine."""
        return f"{self.tag}0"

    @property
    def bridge_address(self) -> str:
        """Return the outer machine's address in the lab."""
        return str(self.subnet[BRIDGE_HOST])

    @property
    def cgroup_name(self) -> str:
        """Return the directory under the cgroup2 mount that holds every process of the lab."""
        return self.state.name

    @property
    def lock_path(self) -> Path:
        """Held while the lab is changed; outside the state directory, which comes and goes."""
        return self.state.with_name(f"{self.state.name}.lock")

    @property
    def config_path(self) -> Path:
        """Return the inventory for the outer machine."""
        return self.state / "config.toml"

    def veth(self, number: int) -> str:
        """Return the outer end of a node's link; the hyphen keeps it apart from the bridge of any other lab."""
        return f"{self.tag}-{number}"

    def address(self, number: int) -> str:
        """Return the address of node `number`, which counts from 1."""
        return str(self.subnet[number])

    def control_link(self, number: int) -> str:
        """Return the outer end of a virtual node's second link; names of labs have no underscore."""
        return f"{self.tag}_{number}"

    def control_address(self, number: int) -> str:
        """Return the address of a virtual node on that link."""
        return str(self.subnet[CONTROL_BASE + number])

    @property
    def control_outer(self) -> str:
        """Return the outer machine's address on all of these links."""
        return str(self.subnet[CONTROL_HOST])

    def mac(self, number: int) -> str:
        """Return a locally administered hardware address that belongs to the node's address for good.

        A node that comes back with another one is unreachable for half a minute: the neighbours still know the old one.
        """
        return self._mac(number)

    def control_mac(self, number: int) -> str:
        """Return the same for the node's end of that second link."""
        return self._mac(CONTROL_BASE + number)

    def _mac(self, host: int) -> str:
        parts = self.subnet[host].packed[1:]
        return "02:72:62:" + ":".join(f"{part:02x}" for part in parts)


def default_subnet(name: str) -> IPv4Network:
    """Return the documented subnet for the default lab, one of 512 picked by the name's hash for the others."""
    if name == DEFAULT_NAME:
        return IPv4Network(DEFAULT_SUBNET)
    every = IPv4Network(OTHER_LABS)
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % (every.num_addresses // 256)
    return IPv4Network((int(every.network_address) + number * 256, 24))


def node_number(node: str) -> int:
    """Return the number in `node7`; raises LabError if there is none."""
    match = re.fullmatch(r"node([1-9][0-9]?)", node)
    if match is None:
        raise LabError(f"{node!r} is no node of the lab", "nodes are called node1, node2, ...")
    return int(match[1])
