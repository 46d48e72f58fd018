"""What can be said before anything is touched: tools, candidates, and CRIU's verdict on one tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reberth_hooks import (
    Check,
    Found,
    HelperError,
    Level,
    Node,
    Options,
    RefusedError,
    Shell,
    Survey,
    UsageError,
    Workload,
    hookimpl,
)
from reberth_hooks.criu.attributes import attribute_checks
from reberth_hooks.criu.files import Files
from reberth_hooks.criu.modes import unfit_modes
from reberth_hooks.criu.objects import object_checks, some, terminals_outside
from reberth_hooks.criu.preflight import (
    both_ends,
    criu_faults,
    has_feature,
    image_space_checks,
    space_checks,
    tcp_checks,
    tcp_words,
    version_of,
)
from reberth_hooks.criu.systemd import supervisor_checks, unit_details

# Action scripts while another program drives CRIU (runc) came with 3.19; one floor for both backends.
LEAST = (3, 19)
FEATURES = ("mem_dirty_track", "uffd-noncoop", "network_lock_nftables")
SPARE_BYTES = 64 << 20


@hookimpl
def reberth_probe(node: Node, shell: Shell) -> dict[str, object]:
    """Version and features of criu; `usable` with the reason when not."""
    try:
        text = shell.run(["criu", "--version"]).out
    except HelperError as error:
        return {"usable": False, "reason": error.message, "remedy": error.hint}
    version = version_of(text)
    if version < LEAST:
        reason = f"criu {'.'.join(map(str, version))} is older than {'.'.join(map(str, LEAST))}"
        return {"usable": False, "version": list(version), "reason": reason, "remedy": "install a newer criu"}
    features = {name: has_feature(shell, name) for name in FEATURES}
    return {"usable": True, "version": list(version), "features": features, "checks": criu_faults(version)}


@hookimpl
def reberth_list(node: Node, shell: Shell) -> list[Found]:
    """Session leaders without a terminal: what can be moved by its pid."""
    return [
        Found("criu", str(t["pid"]), _state(t["state"]), t["pid"], t["memory_bytes"], t["comm"])
        for t in shell.call("processes")
    ]


def _state(letter: str) -> str:
    return {"R": "running", "S": "running", "D": "running", "T": "stopped", "t": "traced"}.get(letter, letter)


@hookimpl
def reberth_survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: dict[str, Any], options: Options
) -> Survey:
    """Look at the tree through /proc and compare with the target; raises UsageError for a pid that is none."""
    if not workload.name.isdecimal() or int(workload.name) < 1:
        raise UsageError(f"criu/{workload.name}: a process tree is named by its pid", hint="reberth ls")
    if target_name != workload.name:
        raise UsageError("a process keeps its pid: it cannot get another name", hint=f"write {target.node.name}:")
    try:
        tree = source.call("describe", pid=int(workload.name))
    except HelperError as error:
        if error.kind != "ended":
            raise
        raise UsageError(error.message, hint=f"reberth ls {source.node.name}") from error
    if int(workload.name) == 1:
        raise RefusedError("pid 1 is the node itself", hint="name the root of a process tree")
    need = int(tree["memory_bytes"] * 1.1) + SPARE_BYTES
    files = Files(tree, options, source, target)
    hello = {side: facts[side]["hello"] for side in ("source", "target")}
    checks = [
        *_tree_checks(tree, source.node.name),
        *attribute_checks(tree, source.node.name, target.node.name, hello["target"]),
        *object_checks(tree, hello["source"], source.node.name),
        *tcp_checks(tree, options, source.node.name),
        *supervisor_checks(tree, options, source.node.name),
        *both_ends(facts, "criu", "version", tree, options, source, target),
        *image_space_checks(need, source),
        *image_space_checks(need, target),
        *space_checks(need, hello["source"]["mem_available_bytes"], source.node.name),
        *space_checks(2 * need, hello["target"]["mem_available_bytes"], target.node.name),
        *_target_checks(tree, target),
        *files.checks(),
    ]
    root = tree["tasks"][0]
    details = {
        "pid": root["pid"],
        "start_ticks": root["start_ticks"],
        "tasks": sum(task["state"] not in "ZX" for task in tree["tasks"]),
        "memory_bytes": tree["memory_bytes"],
        "need_bytes": need,
        "tcp": list(tcp_words(tree, options)),
        "comm": root["comm"],
        **files.details,
        **unit_details(tree, options),
    }
    return Survey(tuple(checks), details, unfit_modes(facts, "criu", tree, details["tcp"]))


def _tree_checks(tree: dict[str, Any], node: str) -> Iterator[Check]:
    pids = {t["pid"] for t in tree["tasks"]}
    terminals = terminals_outside(tree)
    if terminals:
        remedy = "start it without one: setsid CMD </dev/null >LOG 2>&1"
        yield Check("terminal", Level.FAIL, f"the process is on a terminal ({some(terminals)})", remedy, node)
    if tree["outside_mounts"]:
        text = f"open files that no mount of the workload shows: {some(tree['outside_mounts'])}"
        remedy = "close them in the workload (files of other mount namespaces, secret memory)"
        yield Check("mounts", Level.FAIL, text, remedy, node)
    outside = sorted({t["sid"] for t in tree["tasks"]} - pids)
    if outside:
        text = f"a session leader is outside the tree (pid {outside[0]})"
        yield Check("session", Level.FAIL, text, "name that process, or start the workload with setsid", node)
    # A tree that CRIU has restored once is in a time namespace of its own, so that its clocks go on.
    # Of a network of its own CRIU makes the loopback interface again, and no other.
    own = ["time", "net"] if tree["links"] in ([], ["lo"]) else ["time"]
    foreign = [n for n, at in tree["namespaces"].items() if n not in own and at != tree["helper_namespaces"].get(n)]
    if foreign:
        text = f"the process is in namespaces of its own ({', '.join(sorted(foreign))})"
        yield Check("namespaces", Level.FAIL, text, "move the container with its own backend (runc)", node)


def _target_checks(tree: dict[str, Any], target: Shell) -> Iterator[Check]:
    name = target.node.name
    pids = [t["pid"] for t in tree["tasks"]]
    taken = [
        p for p, found in zip(pids, target.call("stats", paths=[f"/proc/{p}" for p in pids]), strict=True) if found
    ]
    if taken:
        text = f"pid {', '.join(map(str, taken[:5]))} is taken on the target"
        yield Check("pid", Level.FAIL, text, "end that process there, or move at another time", name)
    else:
        yield Check("pid", Level.OK, f"{len(pids)} pids are free on the target", "", name)
