"""A backend for an OCI runtime that drives CRIU: all the hooks, and the few things that a runtime does its own way.

A plugin makes a subclass of `OciBackend`, and its entry point names an instance. What is held, fenced and undone is the
helper's. Written for the command line of runc, which crun and youki share.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from reberth_hooks.criu import oci_survey, paging
from reberth_hooks.criu.attributes import attribute_checks, tell_lost
from reberth_hooks.criu.bundle import config_checks, places_outside
from reberth_hooks.criu.modes import final_place, lazy_words, link_final, parent_of
from reberth_hooks.criu.objects import object_checks
from reberth_hooks.criu.preflight import (
    both_ends,
    criu_faults,
    has_feature,
    image_space_checks,
    memory_ahead,
    space_checks,
    tcp_checks,
    tcp_words,
)
from reberth_hooks.criu.systemd import hold_unit, supervisor_checks, unit_details
from reberth_hooks.declare import Declaration, Role
from reberth_hooks.errors import RefusedError
from reberth_hooks.markers import hookimpl
from reberth_hooks.protocols import Move, Shell
from reberth_hooks.types import (
    Channel,
    Check,
    Checkpoint,
    Found,
    Level,
    Mode,
    Node,
    Options,
    Receipt,
    Restored,
    Round,
    Survey,
    Tree,
    Workload,
)

# Action scripts while another program drives CRIU came with 3.19.
LEAST_CRIU = (3, 19)
LAZY = frozenset({Mode.POST_COPY, Mode.HYBRID})


class OciBackend:
    """The hooks of a backend for one OCI runtime. A subclass sets the attributes and overrides what differs."""

    name: ClassVar[str]
    """The program, and the backend's name."""
    least: ClassVar[tuple[int, int]] = (1, 0)
    """The oldest version of the program that will do."""
    modes: ClassVar[frozenset[Mode]] = frozenset({Mode.STOP_AND_COPY})
    memory: ClassVar[bool] = False
    """Whether the runtime can dump to a page server."""
    tools: ClassVar[tuple[str, ...]] = ()
    """Programs that the backend runs on a node beside the runtime, criu, du and systemctl."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Keys of `[nodes.X.NAME]` beside those that allow what leads out of the bundle."""
    flags: ClassVar[tuple[str, ...]] = ("--file-locks",)
    """Words of both `checkpoint` and `restore`."""
    own_words: ClassVar[Mapping[str, str]] = {}
    """CRIU's options for connections that the runtime has words for; the others go into CRIU's own configuration."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Files of settings that the runtime lets criu read."""

    # What a runtime does its own way

    def program(self, node: Node) -> list[str]:
        """Return the words that start the runtime on a node."""
        return [self.name]

    def fault(self, shell: Shell) -> tuple[str, str]:
        """Return why this runtime cannot work on a node, and the remedy; empty words when it can."""
        return "", ""

    def record(self, node: Node, name: str) -> str:
        """Return the directory of the runtime's record of a container, where a killed runtime leaves it behind."""
        return ""

    def before_dump(self, move: Move) -> None:
        """Journal what undoes a trace that the runtime's `checkpoint` leaves when it is vetoed."""

    def knows(self, move: Move) -> bool:
        """Return whether the runtime's record of this name is still that of the container that has moved."""
        return True

    # The hooks

    @hookimpl
    def reberth_describe(self) -> Declaration:
        """Say what the runtime can do."""
        return Declaration(
            summary=f"OCI containers of {self.name}, by their id",
            roles=frozenset({Role.BACKEND}),
            carries=frozenset({Channel.MEMORY} if self.memory else ()),
            modes=self.modes,
            tools=(self.name, "criu", "du", "systemctl", *self.tools),
            options=self.options | {"allow_hooks", "allow_mounts", "allow_devices"},
        )

    @hookimpl
    def reberth_probe(self, node: Node, shell: Shell) -> dict[str, object]:
        """Return the versions of the runtime and of criu; `usable` with the reason when not."""
        found = oci_survey.probe(shell, {self.name: self.least, "criu": LEAST_CRIU})
        if not found["usable"]:
            return found
        reason, remedy = self.fault(shell)
        if reason:
            return {**found, "usable": False, "reason": reason, "remedy": remedy}
        asked = (("mem_dirty_track", Mode.PRE_COPY), ("uffd-noncoop", Mode.POST_COPY))
        features = {name: has_feature(shell, name) for name, mode in asked if mode in self.modes}
        return {**found, "features": features, "checks": criu_faults(tuple(found["criu"]))}

    @hookimpl
    def reberth_list(self, node: Node, shell: Shell) -> list[Found]:
        """Return all containers of this runtime."""
        known = oci_survey.containers(self.program(node), shell)
        return [Found(self.name, c["id"], c["status"], c["pid"], 0, c["bundle"]) for c in known]

    @hookimpl
    def reberth_survey(
        self,
        workload: Workload,
        target_name: str,
        source: Shell,
        target: Shell,
        facts: dict[str, Any],
        options: Options,
    ) -> Survey:
        """Judge state, configuration and processes, and whether the target has room and name for the container."""
        found = oci_survey.state(self.program(source.node), source, workload.name)
        if found["status"] != "running":
            text = f"the container is {found['status']}"
            return Survey((Check("running", Level.FAIL, text, "start or resume it first", source.node.name),))
        bundle = str(found["bundle"])
        config = json.loads(source.call("read", path=f"{bundle}/config.json"))
        tree = source.call("describe", pid=int(found["pid"]))
        need = int(tree["memory_bytes"] * 1.1) + oci_survey.SPARE_BYTES
        hello = {side: facts[side]["hello"] for side in ("source", "target")}
        there = target.node.name
        checks = [
            *config_checks(config, bundle, target.node.options_of(self.name), there, self.name),
            *attribute_checks(tree, source.node.name, there, hello["target"]),
            *object_checks(tree, hello["source"], source.node.name),
            *tcp_checks(tree, options, source.node.name),
            *supervisor_checks(tree, options, source.node.name),
            *oci_survey.stdio_checks(tree, source.node.name),
            *both_ends(facts, self.name, "criu", tree, options, source, target),
            *oci_survey.older_checks(facts, self.name),
            *oci_survey.settings_checks(self.name, self.settings, source, target),
            *image_space_checks(need, source),
            *image_space_checks(need, target),
            *space_checks(need, hello["source"]["mem_available_bytes"], source.node.name),
            *space_checks(2 * need, hello["target"]["mem_available_bytes"], there),
            *self._name_checks(target_name, target),
            *oci_survey.place_checks(config, bundle, source, target),
        ]
        details = {
            "pid": tree["tasks"][0]["pid"],
            "start_ticks": tree["tasks"][0]["start_ticks"],
            "tasks": sum(task["state"] not in "ZX" for task in tree["tasks"]),
            "memory_bytes": tree["memory_bytes"],
            "need_bytes": need,
            "bundle": bundle,
            "cgroup": tree["cgroup"],
            "outside": places_outside(config, bundle),
            "tcp": list(tcp_words(tree, options)),
            "replaces": target.call("is_left", path=bundle)["exists"],
            "node_network": tree["namespaces"]["net"] == tree["helper_namespaces"]["net"],
            "loopback_up": tree["loopback_up"],
            **unit_details(tree, options),
        }
        unfit = oci_survey.unfit(facts, self.name, tree, details) if self.modes & LAZY else {}
        return Survey(tuple(checks), details, unfit)

    def _name_checks(self, name: str, target: Shell) -> Iterator[Check]:
        node = target.node
        if any(c["id"] == name for c in oci_survey.containers(self.program(node), target)):
            text, remedy = f"a container {name} exists there", f"move to {node.name}:OTHERNAME"
            yield Check("name", Level.FAIL, text, remedy, node.name)

    @hookimpl
    def reberth_prepare(self, move: Move) -> bool:
        """Make places for the images, and on the target for the bundle: an old copy is set aside, not overwritten."""
        details = move.plan.details
        for word, shell in (("source", move.source), ("target", move.target)):
            place = shell.call("workdir", need_bytes=details["need_bytes"], keep=move.plan.options.keep_images)
            move.note(f"images.{word}", place["path"])
        hold_unit(move, details["pid"])
        cgroup = target_cgroup(move)
        if move.target.call("stats", paths=[cgroup])[0] is None:  # the runtime leaves an empty one of a failed restore
            move.target.call("undo", on="abort", do="cgroup_remove", path=cgroup)
        move.note("shared", is_shared(move, details["bundle"]))
        if not move.recall("shared"):
            make_place(move, details["bundle"])
        return True

    @hookimpl
    def reberth_sync(self, move: Move) -> list[Tree]:
        """Name the whole bundle, while the container runs (nothing of it on shared storage), and its memory."""
        bundle, pid = move.plan.details["bundle"], move.plan.details["pid"]
        files = [] if move.recall("shared") else [Tree("filesystem", bundle, bundle, (pid,))]
        return [*files, *memory_ahead(move, pid)]

    @hookimpl
    def reberth_checkpoint(self, move: Move, round: Round) -> Checkpoint:
        """Run one round; the final one freezes and dumps, and what changed on disk travels while it is frozen."""
        if not round.final:
            return paging.pre_round(move, round, self._pre_dump_words(move, round), _way(move))
        final_place(move, round)
        details, images = move.plan.details, move.recall("images.source")
        self.before_dump(move)
        words = [*self.program(move.plan.source), "checkpoint", "--image-path", images, "--work-path", images]
        words += ["--parent-path", parent_of(round)] if round.index else []
        words += ["--lazy-pages", "--page-server", "@pages@"] if round.lazy else paging.words(move, *PAGED)
        keeps_tcp = "tcp-established" in details["tcp"]
        got = paging.dump(
            move,
            round,
            "dump",
            _way(move),
            **({"pages": "port"} if round.lazy else {}),
            argv=[*words, *self.flags, *self._tcp_flags(move), move.plan.workload.name],
            work=images,
            path=details["cgroup"],
            root_pid=details["pid"],
            start_ticks=details["start_ticks"],
            config=self._config(move, round.lazy),
            locks_network=keeps_tcp and details["node_network"],
            keeps_tcp=keeps_tcp,
            files=details["outside"],
        )
        iteration = paging.final_round(move, round, got)
        parcels = [Tree("images", images, move.recall("images.target"))]
        if not move.recall("shared"):
            bundle = details["bundle"]
            parcels.append(Tree("filesystem-delta", bundle, bundle, tuple(got["pids"])))
        return Checkpoint(tuple(parcels), iteration, got["frozen_ns"], got["held_ns"])

    def _pre_dump_words(self, move: Move, round: Round) -> list[str]:
        """Return the runtime's words for one round."""
        words = [*self.program(move.plan.source), "checkpoint", "--pre-dump"]
        words += ["--image-path", "@images@", "--work-path", "@images@"]
        words += ["--parent-path", parent_of(round)] if round.index else []
        return [*words, *paging.words(move, *PAGED), *self._tcp_flags(move), move.plan.workload.name]

    def _tcp_flags(self, move: Move) -> list[str]:
        return [self.own_words[word] for word in move.plan.details["tcp"] if word in self.own_words]

    def _config(self, move: Move, lazy_dump: bool = False) -> list[str]:
        """Return the settings that the runtime has no words for; CRIU reads them for this one call."""
        lock = "nftables" if "tcp-established" in move.plan.details["tcp"] else "skip"
        lines = ["action-script @hook@", f"network-lock {lock}", "link-remap", "ghost-limit 67108864"]
        lines += ["leave-stopped"] if lazy_dump else []
        return lines + [word for word in move.plan.details["tcp"] if word not in self.own_words]

    @hookimpl
    def reberth_restore(self, move: Move, receipts: tuple[Receipt, ...]) -> Restored:
        """Build the copy through the runtime; it is held in CRIU's post-restore script.

        Raises RefusedError when the runtime's own end would kill the copy, whose parent it is.
        """
        if signal := move.recall("dump").get("parent_death"):
            text = f"the container's first process ({move.plan.details['pid']}) wants {signal} when its parent ends "
            text += f"(PR_SET_PDEATHSIG), and {self.name}, its parent in a restore, ends at once"
            raise RefusedError(text, hint="let that process clear it: prctl(PR_SET_PDEATHSIG, 0)")
        name, images = move.plan.target_name, move.recall("images.target")
        program = self.program(move.plan.target)
        record = self.record(move.plan.target, name)
        if record:
            if move.target.call("stats", paths=[record])[0] is not None:
                text, hint = f"a container {name} has come up on the target meanwhile", "move under another name"
                raise RefusedError(text, hint=hint)
            # A killed runtime leaves its record with CRIU's root mounted in it, which `delete` does not remove.
            move.target.call("undo", on="abort", do="rmtree", path=record)
        move.target.call("undo", on="abort", do="run", argv=[*program, "delete", "--force", name])
        link_final(move)
        dump, lazy = move.recall("dump"), lazy_words(move, self.name)
        words = [*program, "restore", "--detach", "--bundle", move.plan.details["bundle"]]
        words += ["--image-path", images, "--work-path", images]
        words += [*self.flags, *self._tcp_flags(move), *(["--lazy-pages"] if lazy["lazy"] else []), name]
        got = move.target.call(
            "restore",
            argv=words,
            work=images,
            own_cgroup=False,
            path=target_cgroup(move),
            config=self._config(move),
            network_lock=dump["network_lock"],
            tasks=dump.get("tasks", 0),
            files=dump.get("files", []),
            attributes=dump.get("attributes"),
            **lazy,
            loopback=not move.plan.details["node_network"] and move.plan.details["loopback_up"],
            timeout_s=None,
        )
        tell_lost(move, got)
        return Restored(name, got["pid"], got["tasks"], got["held_ns"])

    @hookimpl
    def reberth_commit(self, move: Move) -> bool:
        """Remove what the runtime still knows of the source; the bundle stays, marked as an old copy."""
        if self.knows(move):
            words = [*self.program(move.plan.source), "delete", "--force", move.plan.workload.name]
            move.source.run(words, check=False)
        if not move.recall("shared"):
            move.source.call("mark_left", path=move.plan.details["bundle"])
            move.target.call("unmark_left", path=move.plan.details["bundle"])
        return True

    @hookimpl
    def reberth_rollback(self, move: Move) -> bool:
        """Do nothing: the helper has thawed the container, and the runtime's own record was never touched."""
        return True


PAGED = ("--page-server", "@pages@")


def _way(move: Move) -> str:
    """Return how criu reaches the helper, since a runtime hands on no socket.

    In a network namespace of its own criu would take that of its node for one of the container's.
    """
    return "loopback" if move.plan.details["node_network"] else "port"


def target_cgroup(move: Move) -> str:
    """Return where the runtime will make the cgroup: as on the source, under the container's name on the target."""
    mounts = [str(move.plan.facts[side]["hello"]["cgroup2"]) for side in ("source", "target")]
    parent, _, name = move.plan.details["cgroup"].removeprefix(mounts[0]).rpartition("/")
    return f"{mounts[1]}{parent}/{move.plan.target_name if name == move.plan.workload.name else name}"


def is_shared(move: Move, bundle: str) -> bool:
    """Return whether a file made in the bundle on the source is there on the target."""
    planted = move.source.call("plant", directory=bundle)
    shared = move.target.call("stats", paths=[planted])[0] is not None
    move.source.call("pluck", path=planted)
    return shared


def make_place(move: Move, bundle: str) -> None:
    """Make the bundle's directory on the target; raise RefusedError where something stands that no move has left."""
    left = move.target.call("is_left", path=bundle)
    if left["exists"] and not left["left"]:
        raise RefusedError(f"{bundle!a} exists on the target", hint="move it out of the way: it would be overwritten")
    if left["exists"]:
        move.target.call("set_aside", path=bundle)
    move.target.call("make_dirs", path=bundle)
