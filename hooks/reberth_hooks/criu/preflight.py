"""Checks that every CRIU backend needs beside those of `objects`: connections, space, versions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from reberth_hooks.criu.objects import object_checks as object_checks
from reberth_hooks.criu.objects import some
from reberth_hooks.errors import HelperError
from reberth_hooks.protocols import Move, Shell
from reberth_hooks.types import Channel, Check, Level, Mode, Options, Plan, Tree

LAZY_FROM_BYTES = 64 << 20
AHEAD_PASSES = 3  # each sends what changed during the one before; one that would gain little sends nothing
SAFE_CRIU = (4, 2, 1)
# Where the helper's `workdir` makes room, and what it leaves free there.
IMAGE_PLACES, IMAGE_SPARE_BYTES = ("/dev/shm", "/run", "/var/lib"), 16 << 20
# Sockets of kernels from 6.16 on answer SO_PASSCRED with EOPNOTSUPP (CRIU commit 4b7398595, first in 4.2).
LEAST_SOCKETS, KERNEL_SOCKETS = (4, 2), (6, 16)


def tcp_checks(facts: Mapping[str, Any], options: Options, node: str) -> Iterator[Check]:
    """Established connections that lead out of the tree need a decision; those inside travel by themselves."""
    outside = facts["tcp"]["outside"]
    if options.tcp_established and options.tcp_close:
        yield _fail("tcp", "--tcp-established and --tcp-close exclude each other", "give one of them", node)
    elif outside and not (options.tcp_established or options.tcp_close):
        text = f"{len(outside)} established TCP connections lead outside: {some(outside)}"
        remedy = "--tcp-close ends them; --tcp-established keeps them if the address exists on the target"
        yield _fail("tcp", text, remedy, node)
    else:
        yield Check("tcp", Level.OK, f"{facts['tcp']['inside']} TCP ends inside, {len(outside)} outside", "", node)
    stay = facts["tcp"]["stay"]
    if stay and options.tcp_established and not options.tcp_close:
        text = f"connections lead to processes outside that stay on this node, and are lost: {some(stay)}"
        yield _fail("tcp-local", text, "--tcp-close ends them in the copy", node)
    waiting = facts["tcp"]["unaccepted"]
    if waiting and not options.tcp_close:
        text = f"{len(waiting)} connections wait to be accepted: {some(waiting)}"
        yield _fail("tcp-unaccepted", text, "let the server accept them, or --tcp-close drops them", node)


def taken_checks(facts: Mapping[str, Any], target: Shell) -> Iterator[Check]:
    """Ports and names of sockets that are taken on the target, where the workload has the node's network."""
    if facts["namespaces"]["net"] != facts["helper_namespaces"]["net"]:
        return
    there = target.call("taken")
    ports = [here for here in facts["tcp"]["listening"] if any(_same_port(here, one) for one in there["tcp"])]
    names = [f"@{name}" for name in facts["abstract"] if name in there["abstract"]]
    if ports or names:
        text = f"others listen there on {some([*ports, *names])}"
        yield _fail("taken", text, "end what listens there", target.node.name)


def address_checks(facts: Mapping[str, Any], options: Options, target: Shell) -> Iterator[Check]:
    """Yield each address that a socket of the workload is bound to exists on the target, or moves there with it."""
    if facts["namespaces"]["net"] != facts["helper_namespaces"]["net"]:
        return
    wanted = [one for one in facts["bound"] if not (one["connected"] and options.tcp_close)]
    if not wanted:
        return
    there = target.call("taken")
    moved = options.move_address.partition("/")[0]
    here = {ip_address(word) for word in (*there["addresses"], *([moved] if moved else ()))}
    missing = [
        one
        for one in wanted
        if (address := ip_address(one["address"])) not in here and f"ipv{address.version}" not in there["nonlocal"]
    ]
    if missing:
        names = [f"process {one['pid']} {one['kind']} {one['address']} port {one['port']}" for one in missing]
        lacks = list(dict.fromkeys(one["address"] for one in missing))
        text = f"sockets are bound to addresses that the target does not have: {some(names)}"
        remedy = f"--move-address {lacks[0]} takes it along, or let it listen on any address"
        yield _fail("local-address", text, remedy, target.node.name)


def _same_port(one: str, other: str) -> bool:
    """Tell whether two listening sockets exclude each other: one port, and one address or any."""
    (host, _, port), (there, _, taken) = one.rpartition(":"), other.rpartition(":")
    anywhere = ("0.0.0.0", "[" + ":".join(["0000"] * 8) + "]")
    return port == taken and (host == there or host in anywhere or there in anywhere)


def tcp_words(facts: Mapping[str, Any], options: Options) -> tuple[str, ...]:
    """CRIU's options for the connections, without dashes; empty when there is none to keep or close.

    A connection that the workload has not accepted yet is dropped with --tcp-close; otherwise CRIU refuses the dump.
    """
    if options.tcp_close:
        return ("tcp-close", "skip-in-flight")
    if options.tcp_established or facts["tcp"]["inside"]:
        return ("tcp-established",)
    return ()


def lazy_restore(plan: Plan, backend: str, pages_bytes: int) -> bool:
    """Tell whether the copy should run before all its `pages_bytes` are read: worth it only where reading takes long.

    CRIU reads all memory before it resumes: 727 ms at 1 GiB, 47 ms lazily (facts of this project, 2026-11-22). The
    daemon itself takes some 20 ms.
    """
    features = plan.facts["target"][backend].get("features") or {}
    return plan.options.lazy_restore and bool(features.get("uffd-noncoop")) and pages_bytes >= LAZY_FROM_BYTES


def memory_ahead(move: Move, pid: int) -> list[Tree]:
    """Passes over a tree's memory while it runs, after which the images need only what changed; for `reberth_sync`.

    None where memory is short: beside the images each node holds a copy until the move ends, and two during a pass.
    """
    need, place = move.plan.details["need_bytes"], []
    paged = Channel.MEMORY in move.plan.routes
    if paged or move.plan.mode is not Mode.STOP_AND_COPY or not move.plan.options.memory_ahead:
        return []
    for side, shell, most in (("source", move.source, 3), ("target", move.target, 4)):
        if move.plan.facts[side]["hello"]["mem_available_bytes"] < most * need:
            return []
        try:
            place.append(shell.call("workdir", need_bytes=2 * need, name="ahead", disk=False)["path"])
        except HelperError as error:
            if error.kind != "no-space":
                raise
            return []
    return [Tree("memory", place[0], place[1], (pid,))] * AHEAD_PASSES


def version_of(text: str) -> tuple[int, ...]:
    """Return the first dotted number in a text: `Version: 4.2.1` as (4, 2, 1); empty when there is none."""
    found = re.search(r"(\d+(?:\.\d+)+)", text)
    return tuple(int(n) for n in found[1].split(".")) if found else ()


def has_feature(shell: Shell, name: str) -> bool:
    """Tell whether criu there says that it and the kernel have a feature (`criu check --feature`)."""
    return shell.run(["criu", "check", "--no-default-config", "--feature", name], check=False).code == 0


def criu_faults(version: tuple[int, ...]) -> list[dict[str, str]]:
    """Known faults of a criu, as warnings in the answer of a probe (`checks`)."""
    if not version or version >= SAFE_CRIU:
        return []
    words = ".".join(map(str, version))
    reason = f"criu {words} has the hole CVE-2026-18107: a hostile workload may run code in criu's name"
    return [{"id": "criu-cve", "level": "warn", "reason": reason, "remedy": "install criu 4.2.1 or newer"}]


def kernel_checks(facts: Mapping[str, Any], criu: Mapping[str, Any], tree: Mapping[str, Any]) -> Iterator[Check]:
    """Yield what the sockets of a tree need of criu, kernel and tools on both nodes.

    `criu` maps side to its version.
    """
    uses = tree["tcp"]["listening"] or tree["tcp"]["inside"] or tree["tcp"]["outside"]
    for side in ("source", "target"):
        kernel, version = facts[side]["hello"]["kernel"], tuple(criu[side] or ())
        if uses and version and version_of(kernel) >= KERNEL_SOCKETS and version < LEAST_SOCKETS:
            text = f"criu {'.'.join(map(str, version))} cannot dump sockets on kernel {kernel}"
            yield _fail("criu-sockets", text, "install criu 4.2 or newer", "")
    ours, theirs = (tuple(criu[side] or ())[:2] for side in ("source", "target"))
    if theirs and theirs < ours:  # a missing criu is told by its backend's own check
        here, there = (".".join(map(str, criu[side])) for side in ("source", "target"))
        text = f"criu {there} on the target may not read images of criu {here}"
        yield Check("criu-older", Level.WARN, text, "install the same criu on both nodes", "")


def network_checks(words: tuple[str, ...], source: Shell, target: Shell) -> Iterator[Check]:
    """Connections that are kept need criu's nftables lock and nft(8), without which the other end gets resets."""
    if "tcp-established" not in words:
        return
    for shell in (source, target):
        if not has_feature(shell, "network_lock_nftables"):
            text = "criu there cannot lock the network by nftables, and connections are to be kept"
            yield _fail("network-lock", text, "install a criu with nftables, or use --tcp-close", shell.node.name)
        if _missing(shell, "nft"):
            text = "nft(8) is not installed there, and connections are to be kept: their lock goes with them"
            yield _fail("firewall-tool", text, "install nftables, or use --tcp-close", shell.node.name)


def _missing(shell: Shell, program: str) -> bool:
    try:
        shell.run([program, "--version"], check=False)
    except HelperError:
        return True
    return False


def cpu_checks(source: Shell, target: Shell) -> Iterator[Check]:
    """Tell whether criu on the target takes the processor of the source; a copy that used more would die of SIGILL."""
    image = source.call("cpu_dump")
    problems = target.call("cpu_check", image=image) if image else []
    if problems:
        remedy = "move to a machine with at least the same processor features"
        yield _fail("cpu", f"the target's processor lacks: {some(problems)}", remedy, target.node.name)
    elif image:
        yield Check("cpu", Level.OK, "the processor has all that criu asks for", "", target.node.name)


def image_space_checks(need_bytes: int, shell: Shell) -> Iterator[Check]:
    """Tell whether one of the places for images has room: need plus a fifth, as the helper's `workdir` asks for."""
    free = shell.call("space", paths=list(IMAGE_PLACES))
    room, wanted = max(free.values(), default=0), need_bytes * 1.2 + IMAGE_SPARE_BYTES
    if room >= wanted > max(free.get(place, 0) for place in IMAGE_PLACES[:-1]):
        text = f"{need_bytes >> 20} MiB of images do not fit in memory: they lie in {IMAGE_PLACES[-1]}, not encrypted"
        yield Check("images-on-disk", Level.WARN, text, "free memory, or have an encrypted disk there", shell.node.name)
    if room < wanted:
        text = f"{need_bytes >> 20} MiB of images, at most {room >> 20} MiB free in {', '.join(IMAGE_PLACES)}"
        yield _fail("image-space", text, "free memory or disk space on this node", shell.node.name)


def both_ends(
    facts: Mapping[str, Any],
    plugin: str,
    key: str,
    tree: Mapping[str, Any],
    options: Options,
    source: Shell,
    target: Shell,
) -> Iterator[Check]:
    """Yield what criu must be and do on both nodes; `key` is where the plugin's probe keeps criu's version."""
    found = {side: facts[side][plugin] for side in ("source", "target")}
    yield from kernel_checks(facts, {side: one.get(key) for side, one in found.items()}, tree)
    yield from taken_checks(tree, target)
    yield from address_checks(tree, options, target)
    if all(one.get("usable") for one in found.values()):
        yield from network_checks(tcp_words(tree, options), source, target)
        yield from cpu_checks(source, target)


def space_checks(need_bytes: int, mem_bytes: int, node: str) -> Iterator[Check]:
    """Images are held in memory where they fit: need and what is there, in bytes."""
    if mem_bytes < need_bytes:
        text = f"{need_bytes >> 20} MiB needed for memory or images, {mem_bytes >> 20} MiB available"
        yield _fail("space", text, "free memory on this node", node)
    else:
        yield Check("space", Level.OK, f"{need_bytes >> 20} of {mem_bytes >> 20} MiB needed", "", node)


def _fail(id: str, reason: str, remedy: str, node: str) -> Check:
    return Check(id, Level.FAIL, reason, remedy, node)
