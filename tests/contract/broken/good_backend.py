"""A backend without a fault, for containers of the fake runtime `demo`; the broken ones change one thing each."""

from __future__ import annotations

import json
from typing import Any

from reberth_hooks import (
    Check,
    Checkpoint,
    CommandError,
    Declaration,
    Found,
    Iteration,
    Level,
    Mode,
    Move,
    Node,
    Options,
    Receipt,
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

NEED_BYTES = 16 << 20
CONFIG = ["action-script @hook@"]


def declaration(*tools: str) -> Declaration:
    roles, modes = frozenset({Role.BACKEND}), frozenset({Mode.STOP_AND_COPY})
    return Declaration("containers of demo", roles, modes=modes, tools=("demo", *tools))


@hookimpl
def reberth_describe() -> Declaration:
    return declaration()


@hookimpl
def reberth_probe(node: Node, shell: Shell) -> dict[str, object]:
    return {"usable": shell.run(["demo", "--version"], check=False).code == 0}


def containers(shell: Shell) -> list[dict[str, Any]]:
    return json.loads(shell.run(["demo", "list", "--format", "json"]).out) or []


@hookimpl
def reberth_list(node: Node, shell: Shell) -> list[Found]:
    return [Found("demo", c["id"], c["status"], c["pid"]) for c in containers(shell)]


@hookimpl
def reberth_survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: dict[str, object], options: Options
) -> Survey:
    try:
        state = json.loads(source.run(["demo", "state", workload.name]).out)
    except CommandError as error:
        raise UsageError(f"no container {workload.name}") from error
    checks = []
    if any(c["id"] == target_name for c in containers(target)):
        checks.append(Check("name", Level.FAIL, f"a container {target_name} exists there"))
    tree = source.call("describe", pid=state["pid"])
    root = tree["tasks"][0]
    details = {"pid": root["pid"], "start_ticks": root["start_ticks"], "cgroup": tree["cgroup"]}
    return Survey(tuple(checks), {**details, "bundle": state["bundle"]})


@hookimpl
def reberth_prepare(move: Move) -> bool:
    for word, shell in (("source", move.source), ("target", move.target)):
        move.note(f"images.{word}", shell.call("workdir", need_bytes=NEED_BYTES)["path"])
    bundle = move.plan.details["bundle"]
    if move.target.call("is_left", path=bundle)["left"]:
        move.target.call("set_aside", path=bundle)
    move.target.call("make_dirs", path=bundle)
    return True


@hookimpl
def reberth_sync(move: Move) -> list[Tree]:
    return [Tree("filesystem", move.plan.details["bundle"], move.plan.details["bundle"])]


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    details, images = move.plan.details, move.recall("images.source")
    got = move.source.call(
        "dump",
        argv=["demo", "checkpoint", "--image-path", images, move.plan.workload.name],
        work=images,
        path=details["cgroup"],
        root_pid=details["pid"],
        start_ticks=details["start_ticks"],
        config=CONFIG,
        timeout_s=None,
    )
    parcels = (
        Tree("images", images, move.recall("images.target")),
        Tree("filesystem-delta", details["bundle"], details["bundle"]),
    )
    return Checkpoint(parcels, Iteration(round.index), got["frozen_ns"], got["held_ns"])


@hookimpl
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    name, images = move.plan.target_name, move.recall("images.target")
    move.target.call("undo", on="abort", do="run", argv=["demo", "delete", "--force", name])
    move.target.call("undo", on="abort", do="cgroup_remove", path=f"/sys/fs/cgroup/{name}")
    argv = ["demo", "restore", "--bundle", move.plan.details["bundle"], "--image-path", images, name]
    got = move.target.call("restore", argv=argv, work=images, own_cgroup=False, config=CONFIG, timeout_s=None)
    return Restored(name, got["pid"], got["tasks"], got["held_ns"])


@hookimpl
def reberth_commit(move: Move) -> bool:
    move.source.run(["demo", "delete", "--force", move.plan.workload.name])
    move.source.call("mark_left", path=move.plan.details["bundle"])
    move.target.call("unmark_left", path=move.plan.details["bundle"])
    return True


@hookimpl
def reberth_rollback(move: Move) -> bool:
    return True
