"""Before anything is touched: the address is the source's, may leave it, fits the target, and is free there."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

from reberth_hooks import Check, Level, Node, Options, Shell, Survey, hookimpl

ETHERNET = 1
KEY = "move_address"


@hookimpl
def reberth_probe(node: Node, shell: Shell) -> dict[str, object]:
    """Usable wherever the helper is root: it needs no tool of the node."""
    if shell.call("hello").get("uid") == 0:
        return {"usable": True}
    reason = "an address can be moved only as root"
    return {"usable": False, "reason": reason, "remedy": f"set become = sudo for node {node.name}"}


@hookimpl(wrapper=True)
def reberth_survey(source: Shell, target: Shell, options: Options) -> Generator[None, Survey, Survey]:
    """Around the backend's preflight: its own checks come first, ours and the two places of the address after them."""
    found = yield
    if not options.move_address:
        return found
    address, _, prefix = options.move_address.partition("/")
    here, there = (end.call("address_find", address=address) for end in (source, target))
    checks = [*_source_checks(address, here, source.node.name), *_target_checks(address, there, target.node.name)]
    if any(check.level is Level.FAIL for check in checks):
        return replace(found, checks=(*found.checks, *checks))
    places = {"source": here["here"], "target": _target_place(here["here"], there["route"], prefix)}
    checks += _free_checks(address, there["route"]["ifname"], here["macs"], target)
    return replace(found, checks=(*found.checks, *checks), details={**found.details, KEY: places})


def _source_checks(address: str, here: dict[str, Any], node: str) -> Iterator[Check]:
    if here["here"] is None:
        yield Check("address", Level.FAIL, f"{address} is on no interface here", "ip address show", node)
        return
    for problem in here["problems"]:
        yield Check("address", Level.FAIL, problem["reason"], problem["remedy"], node)
    if not here["problems"]:
        text = f"{address}/{here['here']['prefix_len']} is on {here['here']['ifname']}"
        yield Check("address", Level.OK, text, "", node)


def _target_checks(address: str, there: dict[str, Any], node: str) -> Iterator[Check]:
    """It goes to the interface by which the target reaches the same subnet without a gateway."""
    route = there["route"]
    if there["here"] is not None or (route or {}).get("local"):
        text = f"{address} is on this node already"
        yield Check("address", Level.FAIL, text, "remove it there: two nodes with one address lose packets", node)
    elif route is None or route["gateway"] or not route["ifname"]:
        text = f"no interface is in the subnet of {address}"
        yield Check("address", Level.FAIL, text, "move to a node on the same network, or do without the address", node)
    elif route["kind"] != ETHERNET:
        text = f"{address} would go to {route['ifname']}, which is no Ethernet interface"
        yield Check("address", Level.FAIL, text, "only there it can be announced to the peers", node)
    else:
        yield Check("address", Level.OK, f"{address} goes to {route['ifname']}", "", node)


def _target_place(here: dict[str, Any], route: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the same address as on the source, but for what belongs to the interface there."""
    prefix_len = int(prefix or here["prefix_len"])
    same = here["broadcast"] if prefix_len == here["prefix_len"] else ""
    kept = {key: here[key] for key in ("address", "scope", "flags", "preferred_s")}
    return {**kept, "ifname": route["ifname"], "prefix_len": prefix_len, "broadcast": same, "label": ""}


def _free_checks(address: str, ifname: str, macs: list[str], target: Shell) -> Iterator[Check]:
    """Check that only the source answers for it on the target's network; its own answers do not count."""
    name = target.node.name
    other = target.call("address_probe", address=address, ifname=ifname, ignore=macs)
    if other:
        text = f"{address} is in use on the network of {ifname}, by {other}"
        yield Check("address-free", Level.FAIL, text, "find that machine (or a proxy for ARP), and end it there", name)
    else:
        yield Check("address-free", Level.OK, f"nobody else answers for {address} on {ifname}", "", name)
