"""The checks that every backend needs, made of what the two helpers say of their machines."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reberth.config.options import near
from reberth_hooks import Check, Level, Node, Options, Shell, Survey, UsageError

MAX_CLOCK_DIFFERENCE_S = 5.0
MAX_UPTIME_DIFFERENCE_S = 1.0
LEAST_PIPE_BYTES = 1 << 20
LEAST_PYTHON = (3, 9)


@dataclass(frozen=True, slots=True)
class End:
    """One end of a move: its node, its shell, and what its helper said when our monotonic clock read `asked_ns`."""

    node: Node
    shell: Shell
    hello: Mapping[str, Any]
    asked_ns: int = 0


def greet(node: Node, shell: Shell) -> End:
    """Ask a node's helper what machine it is on."""
    before_ns = time.monotonic_ns()
    hello = shell.call("hello")
    return End(node, shell, hello, (before_ns + time.monotonic_ns()) // 2)


def same_machine(source: End, target: End) -> bool:
    """Tell whether two names lead to one place: the same kernel and the same pid namespace."""
    keys = ("boot_id", "pid_ns")
    return all(source.hello.get(key) and source.hello[key] == target.hello.get(key) for key in keys)


def no_workloads(hello: Mapping[str, Any]) -> str:
    """Return why no workload can run on a node without a helper, all that is missing in one line.

    Empty for the others.
    """
    lacks = hello.get("lacks")
    return f"no workload can run there: it lacks {', '.join(lacks)}" if lacks else ""


def host_checks(source: End, target: End) -> Iterator[Check]:
    """Yield what must hold of the two machines; of one that only an API tells of, what that says."""
    if blind := dict.fromkeys(end.node.name for end in (source, target) if end.hello.get("api")):
        here, there = source.hello.get("arch"), target.hello.get("arch")
        reason = f"architecture: {here} on {source.node.name}, {there} on {target.node.name}"
        yield _check("arch", here == there, reason, "take a target of the same kind: memory images fit no other")
        for name in blind:
            reason = "there is only an API: nobody can look at processor, clocks and free memory"
            yield _check("unseen", False, reason, "reach it by ssh: reberth node add", name, worst=Level.WARN)
        return
    for key, word in (("arch", "architecture"), ("page_bytes", "page size")):
        here, there = source.hello.get(key), target.hello.get(key)
        reason = f"{word}: {here} on {source.node.name}, {there} on {target.node.name}"
        remedy = "take a target of the same kind: memory images fit no other"
        yield _check(key.replace("_", "-"), here == there, reason, remedy)
    for end in (source, target):
        yield from _end_checks(end)
    wall_s = _difference_s(source, target, "clock_realtime_ns")
    near_enough = abs(wall_s) <= MAX_CLOCK_DIFFERENCE_S
    reason = f"the target's wall clock is {wall_s:+.3f} s from the source's"
    yield _check("clock", near_enough, reason, "set both clocks by NTP", worst=Level.WARN)
    if source.hello.get("boot_id") != target.hello.get("boot_id"):
        yield _uptime_check(source, target)


def _uptime_check(source: End, target: End) -> Check:
    """CRIU writes down the clocks that count from the start, and restores into a time namespace in which they go on."""
    jump_s = _difference_s(source, target, "clock_boottime_ns")
    lacking = [end.node.name for end in (source, target) if not end.hello.get("time_ns")]
    if abs(jump_s) > MAX_UPTIME_DIFFERENCE_S and lacking:
        reason = f"CLOCK_MONOTONIC and CLOCK_BOOTTIME of the workload jump by {jump_s:+.3f} s"
        reason += f": no time namespaces on {' and '.join(lacking)}"
        return Check("uptime", Level.WARN, reason, "a kernel from 5.6 on, or be sure that it bears the jump")
    reason = f"the target's uptime is {jump_s:+.3f} s from the source's"
    return Check("uptime", Level.OK, reason if lacking else f"{reason}; the clocks of the workload go on")


def _end_checks(end: End) -> Iterator[Check]:
    """Yield what must hold on each of them."""
    name, hello = end.node.name, end.hello
    yield _check("root", hello.get("uid") == 0, f"user id {hello.get('uid')}", f"set become for node {name}", name)
    where = hello.get("cgroup2") or "not mounted"
    yield _check("cgroup2", bool(hello.get("cgroup2")), f"cgroup v2: {where}", "mount -t cgroup2", name)
    version = re.match(r"(\d+)\.(\d+)", str(hello.get("python", "")))
    good = version is not None and (int(version[1]), int(version[2])) >= LEAST_PYTHON
    yield _check("python", good, f"Python {hello.get('python') or 'missing'}", "install Python 3.9 or newer", name)
    lacks = str(hello.get("direct_lacks", ""))
    reason = f"no connection straight from node to node: {lacks} is missing" if lacks else "TLS 1.3 by certificates"
    yield _check("tls", not lacks, reason, "install it: data goes through this machine", name, worst=Level.WARN)
    pipe_bytes = int(hello.get("pipe_max_bytes", 0))
    reason = f"pipes hold at most {pipe_bytes >> 10} KiB"
    remedy = f"sysctl fs.pipe-max-size={LEAST_PIPE_BYTES}: data goes faster through larger pipes"
    yield _check("pipe-size", pipe_bytes >= LEAST_PIPE_BYTES, reason, remedy, name, worst=Level.WARN)


def usable_checks(facts: Mapping[str, Any], plugins: Iterable[str], source: Node, target: Node) -> Iterator[Check]:
    """Yield what the plugins' own probes say: `usable` False forbids, with the probe's `reason` and `remedy`.

    A probe's `checks` (id, level, reason, remedy) are taken as they are: known faults of a version.
    """
    for plugin in plugins:
        for node, side in ((source, "source"), (target, "target")):
            fact = facts[side][plugin]
            for known in fact.get("checks", ()):
                level = Level(known["level"])
                yield Check(known["id"], level, known["reason"], known.get("remedy", ""), node.name)
            if "usable" in fact:
                reason = str(fact.get("reason") or ("usable" if fact["usable"] else "not usable"))
                remedy = str(fact.get("remedy") or f"reberth check {node.name}")
                yield _check(f"{plugin}-usable", bool(fact["usable"]), f"{plugin}: {reason}", remedy, node.name)


def unit_checks(options: Options, survey: Survey) -> tuple[Check, ...]:
    """A wish that the backend does not know is refused, never ignored; one that knows it has it in its details."""
    if not options.unit or "unit" in survey.details:
        return ()
    return (Check("unit", Level.FAIL, "the backend does not know --unit", "leave out --unit"),)


def skip(checks: Iterable[Check], ids: Iterable[str]) -> tuple[Check, ...]:
    """Return the checks, with failures of the named ones turned into warnings.

    Raise UsageError for a check that was not made.
    """
    made = tuple(checks)
    known = sorted({check.id for check in made})
    for id in ids:
        if id not in known:
            raise UsageError(f"--skip: there is no check {id!a}{near(id, known)}", hint="checks: " + ", ".join(known))
    skipped = frozenset(ids)
    return tuple(
        replace(check, level=Level.WARN, reason=f"{check.reason} (skipped on request)")
        if check.level is Level.FAIL and check.id in skipped
        else check
        for check in made
    )


def _difference_s(source: End, target: End, clock: str) -> float:
    """Target's clock minus source's, each against our own at the middle of its round trip."""
    here, there = (end.hello.get(clock, 0) - end.asked_ns for end in (source, target))
    return float(there - here) / 1e9


def _check(id: str, good: bool, reason: str, remedy: str, node: str = "", *, worst: Level = Level.FAIL) -> Check:
    return Check(id, Level.OK, reason, "", node) if good else Check(id, worst, reason, remedy, node)
