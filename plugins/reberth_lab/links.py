"""Bridge, veth pairs and their shaping, by iproute2."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Interface
from pathlib import Path

from reberth_lab.node import Node
from reberth_lab.proc import LabError, run
from reberth_lab.site import BRIDGE_HOST, Site

# A link group is given in the one call that creates a link, so even a killed `up` leaves no link without our mark.
GROUP = "29282"
PREFIX_LENGTH = 24


def exists(name: str) -> bool:
    """Tell whether this machine has the interface."""
    return Path("/sys/class/net", name).exists()


def is_ours(name: str) -> bool:
    """Tell whether the interface carries the lab's mark."""
    try:
        return Path("/sys/class/net", name, "netdev_group").read_text(encoding="ascii").strip() == GROUP
    except OSError:
        return False


def ensure_bridge(site: Site) -> None:
    """Makes the bridge with the outer machine's address; raises LabError if somebody else has the name or subnet."""
    if exists(site.bridge) and not is_ours(site.bridge):
        raise LabError(f"there is an interface {site.bridge} that is not the lab's", "choose another REBERTH_LAB_NAME")
    _refuse_clash(site)
    if not exists(site.bridge):
        # An address of its own: else it is that of a port, and changes when a node goes.
        named = ["name", site.bridge, "address", site.mac(BRIDGE_HOST), "group", GROUP]
        run(["ip", "link", "add", *named, "type", "bridge", "mcast_snooping", "0"])
    run(["ip", "addr", "replace", f"{site.bridge_address}/{PREFIX_LENGTH}", "dev", site.bridge])
    run(["ip", "link", "set", "dev", site.bridge, "up"])


def _refuse_clash(site: Site) -> None:
    own = ours(site)
    for link in json.loads(run(["ip", "-j", "-4", "addr"]).stdout or "[]"):
        for address in link.get("addr_info", []):
            there = IPv4Interface(f"{address['local']}/{address['prefixlen']}").network
            if link.get("ifname") not in own and there.overlaps(site.subnet):
                raise LabError(
                    f"{link.get('ifname')} is in {there} already, which the lab {site.name} wants to use",
                    "choose another REBERTH_LAB_NAME",
                )


def ensure_veth(site: Site, number: int, pid: int) -> None:
    """Joins node `number`, whose init is `pid`, to the bridge as eth0."""
    outer = site.veth(number)
    inside = ["nsenter", "-t", str(pid), "-n", "--"]
    joined = run([*inside, "ip", "link", "show", "dev", "eth0"], check=False).returncode == 0
    if exists(outer) and not joined:  # its other end belongs to a node that is gone
        _refuse_stranger(outer)
        run(["ip", "link", "del", "dev", outer], check=False)
    if not joined:
        peer = ["peer", "name", "eth0", "address", site.mac(number), "netns", str(pid)]
        run(["ip", "link", "add", "name", outer, "group", GROUP, "type", "veth", *peer])
    run(["ip", "link", "set", "dev", outer, "master", site.bridge, "up"])
    run([*inside, "ip", "link", "set", "dev", "lo", "up"])
    run([*inside, "ip", "addr", "replace", f"{site.address(number)}/{PREFIX_LENGTH}", "dev", "eth0"])
    run([*inside, "ip", "link", "set", "dev", "eth0", "up"])


def _refuse_stranger(name: str) -> None:
    if not is_ours(name):
        raise LabError(f"there is an interface {name} that is not the lab's", "choose another REBERTH_LAB_NAME")


def ours(site: Site) -> list[str]:
    """Return the interfaces of this lab that exist now (nodes' ends not counted)."""
    names = sorted(path.name for path in Path("/sys/class/net").iterdir())
    prefixes = (f"{site.tag}-", f"{site.tag}_")
    return [name for name in names if (name == site.bridge or name.startswith(prefixes)) and is_ours(name)]


def remove_all(site: Site) -> None:
    """Removes the lab's interfaces; one that vanishes meanwhile (its node has just died) is no failure."""
    for name in ours(site):
        done = run(["ip", "link", "del", "dev", name], check=False)
        if done.returncode != 0 and exists(name):
            raise LabError(f"cannot remove {name}: {done.stderr.strip()}")


def set_up(site: Site, number: int, up: bool) -> None:
    """Plugs or unplugs the cable of a node (the outer end, so the node sees its carrier go)."""
    run(["ip", "link", "set", "dev", site.veth(number), "up" if up else "down"])


def shape(node: Node, rate_bit_s: int | None) -> None:
    """Limits a node's link to `rate_bit_s` bits a second in both directions, or lifts the limit."""
    _shape(run, node.site.veth(node.number), rate_bit_s)
    _shape(node.run, "eth0", rate_bit_s)


def _shape(run_there: Callable[..., object], device: str, rate_bit_s: int | None) -> None:
    if rate_bit_s is None:
        run_there(["tc", "qdisc", "del", "dev", device, "root"], check=False)  # there may be none
        return
    # A burst of 10 ms at that rate, and never less than one segment of 64 KiB (veth has segmentation offload).
    burst_bytes = max(rate_bit_s // 800, 70_000)
    limit = ["rate", f"{rate_bit_s}bit", "burst", str(burst_bytes), "latency", "50ms"]
    run_there(["tc", "qdisc", "replace", "dev", device, "root", "tbf", *limit])
