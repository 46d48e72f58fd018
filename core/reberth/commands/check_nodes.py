"""What `reberth check` looks at: one node, or two as the ends of a move, without a workload."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from reberth.connect import data
from reberth.connect.helper import HelperShell
from reberth.plan.preflight import End, greet, host_checks, no_workloads, same_machine, usable_checks
from reberth_hooks import Check, Level, NotStartedError, PluginError, UsageError

if TYPE_CHECKING:
    from reberth.host import Host


def check_nodes(host: Host, names: Sequence[str]) -> tuple[Check, ...]:
    """Return the checks of one or two nodes, each once, in the order of making.

    Raises UsageError, UnreachableError and UntrustedError of the connection.
    """
    ends = [greet(host.config.node(name), host.shell(name)) for name in dict.fromkeys(names)]
    if len(ends) < len(names) or (len(ends) == 2 and same_machine(*ends)):
        raise UsageError(f"{' and '.join(names)} are one machine", hint="name two different nodes, or one alone")
    return tuple(dict.fromkeys(_all(host, ends)))


def _all(host: Host, ends: Sequence[End]) -> Iterator[Check]:
    plain = [end for end in ends if no_workloads(end.hello)]
    if plain:
        yield from (check for end in plain for check in _keeps_files(end, alone=len(ends) == 1))
        return
    for end in ends:
        hello = end.hello
        reason = f"{hello.get('hostname')}, {hello.get('arch')}, kernel {hello.get('kernel')}"
        yield Check("reachable", Level.OK, reason, "", end.node.name)
        if isinstance(end.shell, HelperShell) and not hello.get("api"):
            yield _data(end.node.name, end.shell)
    # One node alone is compared with itself, and only what is said of the node counts.
    yield from (check for check in host_checks(ends[0], ends[-1]) if len(ends) == 2 or check.node)
    for kind in ("backends", "transports"):
        if kind == "transports" and any(end.hello.get("api") for end in ends):
            continue  # the daemons carry all by themselves
        yield from _plugins(host, ends, kind)


def _data(name: str, shell: HelperShell) -> Check:
    """Tell whether data gets there and back: a login shell that prints or reads disturbs it before it does commands."""
    try:
        data.look(shell)
    except NotStartedError as error:
        said = error.tail.splitlines()
        reason = f"{error.message}: {said[-1]}" if said else error.message
        return Check("data-connection", Level.FAIL, reason, error.hint, name)
    return Check("data-connection", Level.OK, "opened, both ways", "", name)


def _keeps_files(end: End, *, alone: bool) -> Iterator[Check]:
    """Yield what can be said of a node without Python.

    It is there, it keeps files, and what it lacks for a workload.
    """
    name, facts = end.node.name, end.hello
    said = f"{facts.get('hostname')}, {facts.get('arch')}, kernel {facts.get('kernel')}, user id {facts['uid']}"
    yield Check("reachable", Level.OK, said, "", name)
    remedy = f"as a place for checkpoints it is good: reberth checkpoint SOURCE {name}:/DIRECTORY"
    yield Check("workloads", Level.WARN if alone else Level.FAIL, no_workloads(facts), remedy, name)


def _plugins(host: Host, ends: Sequence[End], kind: str) -> Iterator[Check]:
    """Yield a check for each enabled plugin.

    A single unusable one is a warning, none that all ends can use is a failure.
    """
    good: list[set[str]] = []
    for end in ends:
        enabled: tuple[str, ...] = getattr(end.node, kind)
        made = {name: _plugin(host, end, name) for name in enabled}
        yield from (check for checks in made.values() for check in checks)
        unusable = {c.id for checks in made.values() for c in checks if c.level is not Level.OK}
        good.append({name for name in enabled if f"{name}-usable" not in unusable})
    common = sorted(set.intersection(*good))
    where = " and ".join(end.node.name for end in ends)
    if common:
        yield Check(kind, Level.OK, f"usable on {where}: {', '.join(common)}")
    else:
        remedy = f"install one, then: reberth node enable {ends[-1].node.name} PLUGIN"
        yield Check(kind, Level.FAIL, f"none is usable on {where}", remedy)


def _plugin(host: Host, end: End, name: str) -> list[Check]:
    """Return the verdict on one plugin, and what is known against its tools; empty when it has nothing to probe."""
    try:
        facts = {"source": {name: host.stage.probe(name, end.node, end.shell)}}
    except PluginError as error:
        return [Check(f"{name}-usable", Level.WARN, error.message, error.hint, end.node.name)]
    facts["target"] = facts["source"]
    found = dict.fromkeys(usable_checks(facts, [name], end.node, end.node))
    return [check if check.level is Level.OK else replace(check, level=Level.WARN) for check in found]
