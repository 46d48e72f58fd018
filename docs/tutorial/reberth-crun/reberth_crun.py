"""Backend `crun`: OCI containers of crun, by their id. crun drives CRIU through libcriu; CRIU's hooks hold it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from reberth_hooks import (
    Check,
    Checkpoint,
    CommandError,
    Declaration,
    Found,
    HelperError,
    Iteration,
    Level,
    Mode,
    Move,
    Node,
    Options,
    Receipt,
    RefusedError,
    Restored,
    Role,
    Round,
    Shell,
    Survey,
    Tree,
    UsageError,
    Workload,
    hookimpl,
)
from reberth_hooks.criu.preflight import object_checks, space_checks, tcp_words

SPARE_BYTES = 64 << 20
# crun makes the container's cgroup itself. Were CRIU to do it, it would take the source's other cgroups of version 1
# along where such are mounted (crun 1.21, CRIU 4.2.1), and nobody would ever remove them.
FLAGS = ("--manage-cgroups-mode=ignore", "--file-locks")


@hookimpl
def reberth_describe() -> Declaration:
    """A backend that does stop-and-copy."""
    return Declaration(
        summary="OCI containers of crun, by their id",
        roles=frozenset({Role.BACKEND}),
        modes=frozenset({Mode.STOP_AND_COPY}),
        tools=("crun", "criu", "ldconfig"),
    )


@hookimpl
def reberth_probe(node: Node, shell: Shell) -> dict[str, object]:
    """crun must be built with CRIU, must find its library at run time, and needs the program as well."""
    try:
        crun = shell.run(["crun", "--version"]).out
        criu = shell.run(["criu", "--version"]).out
        libraries = shell.run(["ldconfig", "-p"]).out
    except HelperError as error:
        return {"usable": False, "reason": error.message, "remedy": error.hint}
    if "+CRIU" not in crun:
        return {"usable": False, "reason": "this crun is built without CRIU", "remedy": "install one with +CRIU"}
    if "libcriu.so" not in libraries:
        return {"usable": False, "reason": "crun loads libcriu, which is not installed", "remedy": "install libcriu2"}
    return {"usable": True, "crun": crun.split()[2], "criu": criu.split()[-1]}


@hookimpl
def reberth_list(node: Node, shell: Shell) -> list[Found]:
    """All containers of this crun."""
    return [Found("crun", c["id"], c["status"], c["pid"], 0, c["bundle"]) for c in _containers(shell)]


def _containers(shell: Shell) -> list[dict[str, Any]]:
    return json.loads(shell.run(["crun", "list", "--format", "json"]).out or "null") or []


@hookimpl
def reberth_survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: dict[str, Any], options: Options
) -> Survey:
    """State, configuration and processes on the source; name, bundle and room on the target."""
    state = _state(source, workload.name)
    if state["status"] != "running":
        check = Check("running", Level.FAIL, f"the container is {state['status']}", "start or resume it first")
        return Survey((check,))
    bundle = state["bundle"]
    tree = source.call("describe", pid=state["pid"])
    need = int(tree["memory_bytes"] * 1.1) + SPARE_BYTES
    hello = {side: facts[side]["hello"] for side in ("source", "target")}
    checks = (
        *_config_checks(json.loads(source.call("read", path=f"{bundle}/config.json")), bundle),
        *object_checks(tree, hello["source"], source.node.name),
        *_tree_checks(tree, options, source.node.name),
        *space_checks(need, hello["source"]["mem_available_bytes"], source.node.name),
        *space_checks(2 * need, hello["target"]["mem_available_bytes"], target.node.name),
        *_target_checks(bundle, target_name, target),
    )
    root = tree["tasks"][0]
    details = {
        "bundle": bundle,
        "pid": root["pid"],
        "start_ticks": root["start_ticks"],
        "cgroup": tree["cgroup"],
        "need_bytes": need,
        "tcp": list(tcp_words(tree, options)),
    }
    return Survey(checks, details)


def _state(shell: Shell, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(shell.run(["crun", "state", name]).out)
    except CommandError as error:
        hint = f"reberth ls {shell.node.name}"
        raise UsageError(f"no container {name} on node {shell.node.name}", hint=hint, tail=error.tail) from error
    return found


def _config_checks(config: Mapping[str, Any], bundle: str) -> Iterator[Check]:
    """The target has never seen this configuration, and runs it as root: what leads out of the bundle is refused."""
    root = posixpath.normpath(posixpath.join(bundle, (config.get("root") or {}).get("path", "rootfs")))
    mounts = [m for m in config.get("mounts") or () if m.get("type") == "bind" or "bind" in (m.get("options") or ())]
    spaces = [s for s in (config.get("linux") or {}).get("namespaces") or () if s.get("path")]
    for id, found, text in (
        ("console", (config.get("process") or {}).get("terminal"), "it has a terminal"),
        ("hooks", config.get("hooks"), "it runs hooks"),
        ("mounts", mounts, "it mounts something of the node"),
        ("devices", (config.get("linux") or {}).get("devices"), "it has devices of the node"),
        ("namespaces", spaces, "it joins namespaces of others"),
        ("rootfs", not root.startswith(f"{bundle}/"), "its root file system is outside the bundle"),
    ):
        if found:
            yield Check(id, Level.FAIL, text, "this backend moves containers that live in their bundle alone")


def _tree_checks(tree: Mapping[str, Any], options: Options, node: str) -> Iterator[Check]:
    if tree["terminals"] or tree["outside_mounts"]:
        remedy = "start it with its streams at /dev/null, a pipe or a file of its own"
        yield Check("stdio", Level.FAIL, "open files lead out of the container", remedy, node)
    if tree["tcp"]["outside"] and not options.tcp_close:
        text = f"{len(tree['tcp']['outside'])} TCP connections lead outside"
        yield Check("tcp", Level.FAIL, text, "--tcp-close ends them; this backend cannot keep them", node)


def _target_checks(bundle: str, name: str, target: Shell) -> Iterator[Check]:
    node = target.node.name
    if any(c["id"] == name for c in _containers(target)):
        yield Check("name", Level.FAIL, f"a container {name} exists there", f"move to {node}:OTHERNAME", node)
    left = target.call("is_left", path=bundle)
    if left["exists"] and not left["left"]:
        text = f"{bundle!a} exists there, and is no copy that an earlier move left behind"
        yield Check("bundle", Level.FAIL, text, "move it out of the way: it would be overwritten", node)


@hookimpl
def reberth_prepare(move: Move) -> bool:
    """Places for the images, and for the bundle: an old copy of it is set aside."""
    for side, shell in (("source", move.source), ("target", move.target)):
        place = shell.call("workdir", need_bytes=move.plan.details["need_bytes"], keep=move.plan.options.keep_images)
        move.note(f"images.{side}", place["path"])
    bundle = move.plan.details["bundle"]
    left = move.target.call("is_left", path=bundle)
    if left["exists"] and not left["left"]:
        raise RefusedError(f"{bundle!a} exists on the target", hint="move it out of the way")
    if left["exists"]:
        move.target.call("set_aside", path=bundle)
    move.target.call("make_dirs", path=bundle)
    return True


@hookimpl
def reberth_sync(move: Move) -> list[Tree]:
    """The whole bundle, while the container runs."""
    bundle = move.plan.details["bundle"]
    return [Tree("filesystem", bundle, bundle, (move.plan.details["pid"],))]


def _config(move: Move) -> list[str]:
    """CRIU reads these lines itself, for this one call: crun has no words for them."""
    lines = ["action-script @hook@", "network-lock skip", "link-remap", "ghost-limit 67108864"]
    return [*lines, *move.plan.details["tcp"]]


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    """Freeze and dump; crun and CRIU wait until the copy runs, or until they are told to let the source go on."""
    details, images = move.plan.details, move.recall("images.source")
    argv = ["crun", "checkpoint", "--image-path", images, "--work-path", images]
    got = move.source.call(
        "dump",
        argv=[*argv, *FLAGS, move.plan.workload.name],
        work=images,
        path=details["cgroup"],
        root_pid=details["pid"],
        start_ticks=details["start_ticks"],
        config=_config(move),
        timeout_s=None,
    )
    parcels = (
        Tree("images", images, move.recall("images.target")),
        Tree("filesystem-delta", details["bundle"], details["bundle"], tuple(got["pids"])),
    )
    seconds = (got["held_ns"] - got["frozen_ns"]) / 1e9
    iteration = Iteration(round.index, bytes=got["pages_bytes"], seconds=seconds, frozen_us=int(seconds * 1e6))
    return Checkpoint(parcels, iteration, got["frozen_ns"], got["held_ns"])


@hookimpl
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    """Build the copy; crun and CRIU wait before it would run."""
    name, images, bundle = move.plan.target_name, move.recall("images.target"), move.plan.details["bundle"]
    move.target.call("undo", on="abort", do="run", argv=["crun", "delete", "--force", name])
    cgroup = _target_cgroup(move)
    if move.target.call("stats", paths=[cgroup])[0] is None:  # crun leaves an empty one when its restore fails
        move.target.call("undo", on="abort", do="cgroup_remove", path=cgroup)
    argv = ["crun", "restore", "--detach", "--bundle", bundle, "--image-path", images, "--work-path", images]
    got = move.target.call(
        "restore",
        argv=[*argv, *FLAGS, name],
        work=images,
        own_cgroup=False,
        config=_config(move),
        timeout_s=None,
    )
    return Restored(name, got["pid"], got["tasks"], got["held_ns"])


def _target_cgroup(move: Move) -> str:
    """Where crun will make the container's cgroup: as on the source, under the name that it gets."""
    source, target = (str(move.plan.facts[side]["hello"]["cgroup2"]) for side in ("source", "target"))
    parent = posixpath.dirname(move.plan.details["cgroup"].removeprefix(source))
    return target + posixpath.join(parent, move.plan.target_name)


@hookimpl
def reberth_commit(move: Move) -> bool:
    """The copy runs: what crun still knows of the source goes, its bundle stays, marked as an old copy."""
    bundle = move.plan.details["bundle"]
    move.source.run(["crun", "delete", "--force", move.plan.workload.name], check=False)
    move.source.call("mark_left", path=bundle)
    move.target.call("unmark_left", path=bundle)
    return True


@hookimpl
def reberth_rollback(move: Move) -> bool:
    """The helper has thawed the container, and crun's own record of it was never touched."""
    return True
