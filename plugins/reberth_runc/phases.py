"""The phases of a container: runc does the work, in its own words; what is held, fenced and undone is the helper's."""

from __future__ import annotations

import json

from reberth_hooks import Checkpoint, HelperError, Move, Receipt, RefusedError, Restored, Round, Tree, hookimpl
from reberth_hooks.criu import paging
from reberth_hooks.criu.modes import final_place, lazy_words, link_final, parent_of
from reberth_hooks.criu.preflight import memory_ahead
from reberth_hooks.criu.systemd import hold_unit
from reberth_runc.survey import runc, runc_root

PAGED = ("--page-server", "@pages@")
FLAGS = {"tcp-established": "--tcp-established"}


def _config(move: Move, lazy_dump: bool = False) -> list[str]:
    """CRIU's settings that runc has no words for; read by CRIU alone, for this one call (CRIU_CONFIG_FILE)."""
    lock = "nftables" if "tcp-established" in move.plan.details["tcp"] else "skip"
    lines = ["action-script @hook@", f"network-lock {lock}", "link-remap", "ghost-limit 67108864"]
    lines += ["leave-stopped"] if lazy_dump else []
    return lines + [word for word in move.plan.details["tcp"] if word not in FLAGS]


def _flags(move: Move) -> list[str]:
    return [FLAGS[word] for word in move.plan.details["tcp"] if word in FLAGS]


@hookimpl
def reberth_prepare(move: Move) -> bool:
    """Places for the images, and on the target a place for the bundle: an old copy is set aside, not overwritten."""
    details = move.plan.details
    bundle = details["bundle"]
    for word, shell in (("source", move.source), ("target", move.target)):
        place = shell.call("workdir", need_bytes=details["need_bytes"], keep=move.plan.options.keep_images)
        move.note(f"images.{word}", place["path"])
    hold_unit(move, details["pid"])
    cgroup = _target_cgroup(move)
    if move.target.call("stats", paths=[cgroup])[0] is None:  # runc leaves an empty one when its restore fails
        move.target.call("undo", on="abort", do="cgroup_remove", path=cgroup)
    move.note("shared", _is_shared(move, bundle))
    if not move.recall("shared"):
        left = move.target.call("is_left", path=bundle)
        if left["exists"] and not left["left"]:
            raise RefusedError(
                f"{bundle!a} exists on the target", hint="move it out of the way: it would be overwritten"
            )
        if left["exists"]:
            move.target.call("set_aside", path=bundle)
        move.target.call("make_dirs", path=bundle)
    return True


def _is_shared(move: Move, bundle: str) -> bool:
    """Whether a file made in the bundle on the source is there on the target."""
    planted = move.source.call("plant", directory=bundle)
    shared = move.target.call("stats", paths=[planted])[0] is not None
    move.source.call("pluck", path=planted)
    return shared


@hookimpl
def reberth_sync(move: Move) -> list[Tree]:
    """The whole bundle while the container runs (nothing of it on shared storage), and its memory."""
    bundle, pid = move.plan.details["bundle"], move.plan.details["pid"]
    files = [] if move.recall("shared") else [Tree("filesystem", bundle, bundle, (pid,))]
    return [*files, *memory_ahead(move, pid)]


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    """Freeze and dump through runc; what changed on disk since the first copy travels while it is frozen.

    Before that, rounds while it runs.
    """
    if not round.final:
        return paging.pre_round(move, round, _pre_dump_argv(move, round), _way(move))
    final_place(move, round)
    details, images = move.plan.details, move.recall("images.source")
    # runc 1.1.15 makes an empty file of this name when CRIU has dumped, and leaves it when that is vetoed.
    record = f"{runc_root(move.plan.source)}/{move.plan.workload.name}/checkpoint"
    move.source.call("undo", on="abort", do="rmtree", path=record)
    argv = [*runc(move.plan.source), "checkpoint"]
    argv += ["--image-path", images, "--work-path", images]
    argv += ["--parent-path", parent_of(round)] if round.index else []
    argv += ["--lazy-pages", "--page-server", "@pages@"] if round.lazy else paging.words(move, *PAGED)
    argv += ["--file-locks", *_flags(move), move.plan.workload.name]
    got = paging.dump(
        move,
        round,
        "dump",
        _way(move),
        **({"pages": "port"} if round.lazy else {}),
        argv=argv,
        work=images,
        path=details["cgroup"],
        root_pid=details["pid"],
        start_ticks=details["start_ticks"],
        config=_config(move, round.lazy),
        locks_network="tcp-established" in details["tcp"] and details["node_network"],
        keeps_tcp="tcp-established" in details["tcp"],
    )
    iteration = paging.final_round(move, round, got)
    parcels = [Tree("images", images, move.recall("images.target"))]
    if not move.recall("shared"):
        bundle = details["bundle"]
        parcels.append(Tree("filesystem-delta", bundle, bundle, tuple(got["pids"])))
    return Checkpoint(tuple(parcels), iteration, got["frozen_ns"], got["held_ns"])


def _pre_dump_argv(move: Move, round: Round) -> list[str]:
    """runc's words for one round."""
    argv = [*runc(move.plan.source), "checkpoint", "--pre-dump", "--image-path", "@images@", "--work-path", "@images@"]
    argv += ["--parent-path", parent_of(round)] if round.index else []
    argv += paging.words(move, *PAGED)
    return [*argv, *_flags(move), move.plan.workload.name]


def _way(move: Move) -> str:
    """How criu reaches the helper, since runc hands on no socket.

    In a network namespace of its own criu would take that of its node for one of the container's.
    """
    return "loopback" if move.plan.details["node_network"] else "port"


def _target_cgroup(move: Move) -> str:
    """Where runc will make the container's cgroup: as on the source, under the container's name there."""
    mounts = [str(move.plan.facts[side]["hello"]["cgroup2"]) for side in ("source", "target")]
    parent, _, name = move.plan.details["cgroup"].removeprefix(mounts[0]).rpartition("/")
    return f"{mounts[1]}{parent}/{move.plan.target_name if name == move.plan.workload.name else name}"


@hookimpl
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    """Restore through runc; held in CRIU's post-restore script."""
    name, images = move.plan.target_name, move.recall("images.target")
    tool = runc(move.plan.target)
    record = f"{runc_root(move.plan.target)}/{name}"
    if move.target.call("stats", paths=[record])[0] is not None:
        raise RefusedError(f"a container {name} has come up on the target meanwhile", hint="move under another name")
    # A runc that was killed leaves its record with CRIU's root mounted in it, which `delete` does not remove.
    move.target.call("undo", on="abort", do="rmtree", path=record)
    move.target.call("undo", on="abort", do="run", argv=[*tool, "delete", "--force", name])
    argv = [*tool, "restore", "--detach", "--bundle", move.plan.details["bundle"]]
    argv += ["--image-path", images, "--work-path", images]
    link_final(move)
    dump = move.recall("dump")
    lazy = lazy_words(move, "runc")
    argv += ["--file-locks", *_flags(move), *(["--lazy-pages"] if lazy["lazy"] else []), name]
    got = move.target.call(
        "restore",
        argv=argv,
        work=images,
        own_cgroup=False,
        path=_target_cgroup(move),
        config=_config(move),
        network_lock=dump["network_lock"],
        **lazy,
        loopback=not move.plan.details["node_network"] and move.plan.details["loopback_up"],
        timeout_s=None,
    )
    return Restored(name, got["pid"], got["tasks"], got["held_ns"])


@hookimpl
def reberth_commit(move: Move) -> bool:
    """runc has forgotten the container by itself unless it was killed meanwhile; the bundle stays, marked as old."""
    if _is_still_known(move):
        move.source.run([*runc(move.plan.source), "delete", "--force", move.plan.workload.name], check=False)
    if not move.recall("shared"):
        move.source.call("mark_left", path=move.plan.details["bundle"])
        move.target.call("unmark_left", path=move.plan.details["bundle"])
    return True


def _is_still_known(move: Move) -> bool:
    """Whether runc's record of this name is of the process that moved: a new container may have the name by now."""
    path = f"{runc_root(move.plan.source)}/{move.plan.workload.name}/state.json"
    try:
        record = json.loads(move.source.call("read", path=path))
    except (HelperError, ValueError):
        return False
    details = move.plan.details
    known = record.get("init_process_pid"), record.get("init_process_start")
    return known == (details["pid"], details["start_ticks"])


@hookimpl
def reberth_rollback(move: Move) -> bool:
    """The helper has thawed the container; runc's own record of it was never touched."""
    return True
