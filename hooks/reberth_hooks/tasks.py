"""Checks that every CRIU backend needs, made of what the helper's `describe` says of a process tree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reberth_hooks.errors import HelperError
from reberth_hooks.protocols import Move, Shell
from reberth_hooks.types import Check, Level, Mode, Options, Plan, Tree

# Comms as /proc shows them, cut to 15 characters.
SUPERVISORS = ("supervisord", "runsv", "s6-supervise", "containerd-shim", "conmon", "dockerd", "monit", "circusd")
LAZY_FROM_BYTES = 64 << 20
AHEAD_PASSES = 3  # each sends what changed during the one before; one that would gain little sends nothing
CAP_SYS_RESOURCE = 1 << 24
# Descriptors without a name that CRIU knows, as read in its documentation.
KNOWN_ANON = (
    "[eventfd]",
    "[eventpoll]",
    "[signalfd]",
    "[timerfd]",
    "inotify",
    "[fanotify]",
    "[userfaultfd]",
    "[pidfd]",
)


def object_checks(facts: Mapping[str, Any], hello: Mapping[str, Any], node: str) -> Iterator[Check]:
    """What CRIU would refuse of the tasks themselves: io_uring, huge pages, devices, tracers, foreign users."""
    anon = facts["anon"]
    if any("io_uring" in name for name in anon):
        yield _fail("io-uring", "the workload uses io_uring, which CRIU cannot dump", "turn io_uring off in it", node)
    odd = sorted(n for n in anon if "io_uring" not in n and n not in KNOWN_ANON and not n.startswith("bpf"))
    if odd:
        text = f"descriptors of kinds that CRIU may not know: {', '.join(odd)}"
        yield Check("anon-inode", Level.WARN, text, "if the dump fails, close them in the workload", node)
    if facts["hugetlb"]:
        yield _fail("hugetlb", "the workload maps huge pages (hugetlb)", "run it without huge pages", node)
    if facts["devices"]:
        yield _fail("devices", f"open devices: {_some(facts['devices'])}", "close them in the workload", node)
    if facts["traced_by"]:
        yield _fail("traced", f"processes under a debugger: {_some(facts['traced_by'])}", "detach it", node)
    foreign = [uid for uid in facts["uids"] if uid != hello.get("uid", 0)]
    if foreign and not int(hello.get("cap_eff", 0)) & CAP_SYS_RESOURCE:
        text = f"processes of user {_some(foreign)}, and this root lacks CAP_SYS_RESOURCE"
        yield _fail("capability", text, "run where root has CAP_SYS_RESOURCE: CRIU reads the limits of others", node)


def supervisor_of(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Who would start the workload anew when it ends: kind and name, both empty for nobody.

    Kind `systemd` is a unit by the cgroup's path, `parent` a known supervisor or engine among its parents.
    """
    unit = re.search(r"/system\.slice/(?:[^/]+\.slice/)*([^/]+\.service)(?:/|$)", str(facts["cgroup"]))
    if unit and unit[1] not in ("ssh.service", "sshd.service"):
        return "systemd", unit[1]
    for comm in facts["parents"]:
        if comm.startswith(SUPERVISORS):
            return "parent", comm
    return "", ""


def restart_of(source: Shell, facts: Mapping[str, Any]) -> str:
    """The `Restart=` of the unit that supervises the workload, empty when none does; asks the node's systemctl."""
    kind, name = supervisor_of(facts)
    if kind != "systemd":
        return ""
    return (
        source.run(["systemctl", "show", "--property=Restart", "--value", "--", name], check=False).out.strip() or "?"
    )


def supervisor_checks(facts: Mapping[str, Any], restart: str, node: str) -> Iterator[Check]:
    """A supervisor would see the source end at the commit and start a second one; `restart` is the unit's own word."""
    kind, name = supervisor_of(facts)
    if kind == "systemd" and restart in ("no", ""):
        text = f"it is the systemd unit {ascii(name)[1:-1]}, which will show as ended; nobody supervises the copy"
        yield Check("supervisor", Level.WARN, text, "", node)
    elif kind:
        text = f"{ascii(name)[1:-1]} would start it again on the source when it has moved: two would run"
        remedy = "take it out of its supervisor's hands first (systemd: Restart=no)"
        yield _fail("supervisor", text, remedy, node)


def tcp_checks(facts: Mapping[str, Any], options: Options, node: str) -> Iterator[Check]:
    """Established connections that lead out of the tree need a decision; those inside travel by themselves."""
    outside = facts["tcp"]["outside"]
    if options.tcp_established and options.tcp_close:
        yield _fail("tcp", "--tcp-established and --tcp-close exclude each other", "give one of them", node)
    elif outside and not (options.tcp_established or options.tcp_close):
        text = f"{len(outside)} established TCP connections lead outside: {_some(outside)}"
        remedy = "--tcp-close ends them; --tcp-established keeps them if the address exists on the target"
        yield _fail("tcp", text, remedy, node)
    else:
        yield Check("tcp", Level.OK, f"{facts['tcp']['inside']} TCP ends inside, {len(outside)} outside", "", node)


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
    """Whether the copy should run before all its pages are read: worth it only where reading takes long.

    CRIU reads all memory before it resumes: 727 ms at 1 GiB, 47 ms lazily (facts of this project, 2026-11-22). The
    daemon itself takes some 20 ms. Images must be flat: pages that lie in a parent image are not lazy.
    """
    flat = plan.mode in (Mode.STOP_AND_COPY, Mode.POST_COPY)
    features = plan.facts["target"][backend].get("features") or {}
    return plan.options.lazy_restore and flat and bool(features.get("uffd-noncoop")) and pages_bytes >= LAZY_FROM_BYTES


def memory_ahead(move: Move, pid: int) -> list[Tree]:
    """Passes over a tree's memory while it runs, after which the images need only what changed; for `reberth_sync`.

    None where memory is short: beside the images each node holds a copy until the move ends, and two during a pass.
    """
    need, place = move.plan.details["need_bytes"], []
    if move.plan.mode is not Mode.STOP_AND_COPY or not move.plan.options.memory_ahead:
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


def space_checks(need_bytes: int, mem_bytes: int, node: str) -> Iterator[Check]:
    """Images are held in memory where they fit: need and what is there, in bytes."""
    if mem_bytes < need_bytes:
        text = f"{need_bytes >> 20} MiB needed for memory or images, {mem_bytes >> 20} MiB available"
        yield _fail("space", text, "free memory on this node", node)
    else:
        yield Check("space", Level.OK, f"{need_bytes >> 20} of {mem_bytes >> 20} MiB needed", "", node)


def _fail(id: str, reason: str, remedy: str, node: str) -> Check:
    return Check(id, Level.FAIL, reason, remedy, node)


def _some(words: Any, most: int = 4) -> str:
    """The first few, escaped: paths and names come from the workload."""
    shown = [ascii(str(w))[1:-1] for w in words]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
