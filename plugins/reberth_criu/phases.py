"""The phases of a process tree: every effect is one operation of the node helper, the argument lists are made here."""

from __future__ import annotations

from reberth_hooks import Checkpoint, Move, Receipt, Restored, Round, Tree, hookimpl
from reberth_hooks.criu import paging
from reberth_hooks.criu.attributes import tell_lost
from reberth_hooks.criu.files import files_ahead, files_left
from reberth_hooks.criu.modes import final_place, lazy_words, link_final, parent_of
from reberth_hooks.criu.preflight import memory_ahead
from reberth_hooks.criu.systemd import hold_unit

# --manage-cgroups=ignore: the tree lives in a cgroup of this run on both nodes; restored tasks stay in criu's.
COMMON = ("--no-default-config", "-v2", "--manage-cgroups=ignore", "--action-script", "@hook@")
PAGED = ("--page-server", "--ps-socket", "@pages@")


@hookimpl
def reberth_prepare(move: Move) -> bool:
    """A private place for images on both nodes, and a cgroup of its own for the tree."""
    need = move.plan.details["need_bytes"]
    for word, shell in (("source", move.source), ("target", move.target)):
        place = shell.call("workdir", need_bytes=need, keep=move.plan.options.keep_images)
        move.note(f"images.{word}", place["path"])
    hold_unit(move, move.plan.details["pid"])
    move.source.call("enclose", pid=move.plan.details["pid"])
    return True


@hookimpl
def reberth_sync(move: Move) -> list[Tree]:
    """The files that it writes, then its memory, while it runs."""
    pid = move.plan.details["pid"]
    return [*files_ahead(move, pid), *memory_ahead(move, pid)]


@hookimpl
def reberth_checkpoint(move: Move, round: Round) -> Checkpoint:
    """Freeze and dump; criu waits in its post-dump script, the tree is fenced. Before that, rounds while it runs."""
    if not round.final:
        return paging.pre_round(move, round, _pre_dump_argv(move, round), "socket")
    final_place(move, round)
    details, images = move.plan.details, move.recall("images.source")
    argv = ["criu", "dump", *COMMON]
    argv += ["--tree", str(details["pid"])]
    argv += ["--images-dir", images, "--work-dir", images, "--log-file", "dump.log"]
    # Without a connection to keep there is nothing to lock, and CRIU would leave its nft table on the source.
    keeps = "tcp-established" in details["tcp"]
    argv += ["--freeze-cgroup", "@cgroup@", "--network-lock", "nftables" if keeps else "skip"]
    argv += ["--file-locks", "--ghost-limit", "64M"]
    argv += ["--link-remap"] if details.get("link_remap") else []
    argv += [f"--{word}" for word in details["tcp"]]
    argv += ["--track-mem", "--prev-images-dir", parent_of(round)] if round.index else []
    argv += ["--lazy-pages", "--leave-stopped", "--ps-socket", "@pages@"] if round.lazy else []
    argv += paging.words(move, *PAGED)
    got = paging.dump(
        move,
        round,
        "dump",
        "socket",
        **({"pages": "socket"} if round.lazy else {}),
        argv=argv,
        work=images,
        root_pid=details["pid"],
        start_ticks=details["start_ticks"],
        locks_network=keeps,
        files={"/": "/"},
    )
    iteration = paging.final_round(move, round, got)
    parcel = Tree("images", images, move.recall("images.target"))
    return Checkpoint((parcel, *files_left(move, details["pid"])), iteration, got["frozen_ns"], got["held_ns"])


def _pre_dump_argv(move: Move, round: Round) -> list[str]:
    """criu's words for one round; a tree of few tasks is stopped faster without the freezer, which CRIU polls."""
    argv = ["criu", "pre-dump", "--no-default-config", "-v2", "--manage-cgroups=ignore"]
    argv += ["--tree", str(move.plan.details["pid"]), "--track-mem"]
    argv += ["--images-dir", "@images@", "--work-dir", "@images@", "--log-file", "pre-dump.log"]
    argv += ["--prev-images-dir", parent_of(round)] if round.index else []
    argv += paging.words(move, *PAGED)
    return argv


@hookimpl
def reberth_restore(move: Move, receipts: tuple[Receipt, ...]) -> Restored:
    """Restore in a cgroup of its own; criu waits in its post-restore script, nothing has run yet."""
    images = move.recall("images.target")
    argv = ["criu", "restore", *COMMON, "--restore-detached"]
    argv += ["--images-dir", images, "--work-dir", images, "--log-file", "restore.log"]
    argv += ["--file-locks"]
    argv += [f"--{word}" for word in move.plan.details["tcp"]]
    link_final(move)
    dump = move.recall("dump")
    lazy = lazy_words(move, "criu")
    argv += ["--lazy-pages"] if lazy["lazy"] else []
    # As criu's child it would be sent that signal as criu ends; as its sibling it has init for a parent at once.
    argv += ["--restore-sibling"] if dump.get("parent_death") else []
    got = move.target.call(
        "restore",
        argv=argv,
        work=images,
        own_cgroup=True,
        network_lock=dump["network_lock"],
        tasks=dump.get("tasks", 0),
        adopted=bool(dump.get("parent_death")),
        files=dump.get("files", []),
        attributes=dump.get("attributes"),
        **lazy,
        timeout_s=None,
    )
    tell_lost(move, got)
    return Restored(str(got["pid"]), got["pid"], got["tasks"], got["held_ns"])


@hookimpl
def reberth_commit(move: Move) -> bool:
    """Nothing of a process tree remains beyond its tasks."""
    return True


@hookimpl
def reberth_rollback(move: Move) -> bool:
    """The helper has let the tree run and put it back where it was."""
    return True
