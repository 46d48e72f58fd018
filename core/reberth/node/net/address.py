"""A service address that moves with its workload: found and judged before the freeze, moved inside the frozen window.

Each effect is first journaled as undo data of the occasion `back`: what takes the run back (controller, this helper
alone, or `recover`) does it before the tasks are let go, so that nothing answers for the address without its sockets.
A process is never started here; only when this helper has been killed the hook script runs `ip` on a file of ours.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from typing import TYPE_CHECKING, Any, Callable

from reberth.node.errors import OpError
from reberth.node.net import neighbours, netlink
from reberth.node.operations.context import source_of, target_of

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon

ETHERNET = 1
BATCH = "back.ip"  # read by `ip -batch` in the hook script
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}\Z")
Place = dict[str, Any]


def address_find(daemon: Daemon, progress: Any, address: str) -> dict[str, Any]:
    """Return where an address is here, what speaks against taking it away, and how this node would reach it."""
    here, route, links = netlink.find(address), netlink.route_to(address), netlink.links()
    if route is not None:
        route.update(links.get(route["ifname"]) or {"mac": "", "kind": 0})
    return {
        "here": here,
        "problems": _problems(here, links) if here else [],
        "route": route,
        "macs": sorted({link["mac"] for link in links.values() if link["mac"]}),
    }


def _problems(here: Place, links: dict[str, Any]) -> list[dict[str, str]]:
    """Return why this address should not be taken from its interface: each with a reason and a remedy."""
    found = []
    name, address = here["ifname"], here["address"]
    if links.get(name, {}).get("kind") != ETHERNET or here["peer"]:
        found.append((f"{name} is no Ethernet interface", "put the address on one: only there can it be announced"))
    if here["valid_s"] != netlink.FOREVER:
        found.append((f"{address} is leased (DHCP or router advertisement)", "move an address that is set for good"))
    if address in _ssh_words():
        found.append((f"the ssh connection to this node uses {address}", "reach the node by another address of it"))
    if netlink.routes_from(address):
        found.append((f"routes use {address} as their source", "remove them: they would be lost with it"))
    if here["family"] == netlink.family_of("0.0.0.0"):
        found += _neighbours_lost(here)
    return [{"reason": reason, "remedy": remedy} for reason, remedy in found]


def _ssh_words() -> list[str]:
    """Client's address and port, this node's address and port; empty without ssh."""
    return os.environ.get("SSH_CONNECTION", "").split()


def _neighbours_lost(here: Place) -> list[tuple[str, str]]:
    """IPv4: the last address of an interface takes its routes along, a first one its secondaries unless promoted."""
    name = here["ifname"]
    others = [
        a
        for a in netlink.addresses()
        if a["ifname"] == name and a["family"] == here["family"] and a["address"] != here["address"]
    ]
    if not others:
        return [(f"{name} has no other address", "give it one of its own: its routes would go with the last one")]
    subnet = ipaddress.ip_network(f"{here['address']}/{here['prefix_len']}", strict=False)
    lost = [
        a["address"]
        for a in others
        if a["flags"] & netlink.F_SECONDARY
        and a["prefix_len"] == here["prefix_len"]
        and ipaddress.ip_address(a["address"]) in subnet
    ]
    if lost and not here["flags"] & netlink.F_SECONDARY and not _promotes(name):
        remedy = f"sysctl net.ipv4.conf.{name}.promote_secondaries=1"
        return [(f"the kernel would remove {', '.join(lost)} together with {here['address']}", remedy)]
    return []


def _promotes(ifname: str) -> bool:
    for name in ("all", ifname):
        with contextlib.suppress(OSError):
            path = f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries"
            with open(path, encoding="ascii") as file:
                if file.read().strip() == "1":
                    return True
    return False


def address_probe(
    daemon: Daemon, progress: Any, address: str, ifname: str, ignore: list[str], wait_s: float = 0.6
) -> str:
    """Ask the link who has an address; returns a hardware address that is not in `ignore` or our own, or nothing."""
    return neighbours.probe(address, ifname, ignore, min(wait_s, 10.0))


def address_announce(daemon: Daemon, progress: Any, address: str, ifname: str) -> None:
    """Tell the link that an address is here; refused when it is not."""
    here = netlink.find(address)
    if here is None or here["ifname"] != ifname:
        raise OpError("address", f"{address} is not on {ifname} of this node")
    neighbours.announce(address, ifname)


def address_del(daemon: Daemon, progress: Any, place: Place) -> None:
    """Take an address from the source while its workload is held; journaled first, given back on the way back."""
    end = source_of(daemon)
    with end.lock:
        if end.run.vote() is not None:
            raise OpError("decided", "the source has voted already")
        if not end.facts()["holding"]:
            raise OpError("protocol", "an address is taken away only while its workload is held")
        end.run.push_undo("back", "address_add", **place)
        _write_batch(end.run.dir, "add", place)
        netlink.delete(place)


def address_add(daemon: Daemon, progress: Any, place: Place) -> None:
    """Put an address on the target before the restore; journaled first, announced when the copy lands."""
    end = target_of(daemon)
    with end.lock:
        if end.run.verdict() is not None:
            raise OpError("decided", "this run has a verdict already")
        if netlink.find(place["address"]):  # not ours, so nothing of ours may remove it
            raise OpError("address", f"{place['address']} is on this node already")
        end.run.push_undo("back", "address_del", **place)
        end.run.push_undo("landed", "address_announce", address=place["address"], ifname=place["ifname"])
        _write_batch(end.run.dir, "del", place)
        netlink.add(place)


def _write_batch(run_dir: str, verb: str, place: Place) -> None:
    """Return what the hook script does should this helper be gone; an odd name of an interface is left to `recover`."""
    if PLAIN_NAME.match(place["ifname"]):
        where = f"{ipaddress.ip_address(place['address'])}/{int(place['prefix_len'])} dev {place['ifname']}"
        if verb == "add" and place.get("broadcast"):
            where += f" broadcast {ipaddress.ip_address(place['broadcast'])}"
        nodad = " nodad" if verb == "add" and ":" in place["address"] else ""
        path = os.path.join(run_dir, BATCH)
        # Not flushed: it is for the death of this process; what must outlive the machine's is in the journal.
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.write(f"address {verb} {where}{nodad}\n")
        os.rename(f"{path}.new", path)


# What is done on the occasions of the journal (`reberth.node.runs.run.UNDO`); each can be repeated.


def give_back(record: dict[str, Any]) -> None:
    """The source's address comes back, and everybody hears of it before the tasks run."""
    netlink.add(record)
    with contextlib.suppress(OSError):  # the link may be down now: who asks will find it all the same
        neighbours.announce(record["address"], record["ifname"])


def take_off(record: dict[str, Any]) -> None:
    """The target's address goes."""
    netlink.delete(record)


def tell(record: dict[str, Any]) -> None:
    """The copy is about to run here: the peers' next packets must come here."""
    neighbours.announce(record["address"], record["ifname"])


OPS: dict[str, Callable[..., Any]] = {
    "address_find": address_find,
    "address_probe": address_probe,
    "address_announce": address_announce,
    "address_del": address_del,
    "address_add": address_add,
}
