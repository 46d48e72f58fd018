"""The preflight of near-live: what must hold of daemons and container when it is stopped, and started afresh, there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from reberth_hooks import Check, Level, Mode, Options, Shell, Survey, UsageError, Workload
from reberth_lxd.api import keys, kinds, landing, rendezvous
from reberth_lxd.api.client import Daemon
from reberth_lxd.api.wanted import other_pool, refuse_one_daemon, running
from reberth_lxd.held import checks
from reberth_lxd.https import survey as apisurvey
from reberth_lxd.https.connect import over_api, url_of

WHY = "near-live: as asked; it is stopped on the source and started afresh on the target"
LOST = "its processes end and start afresh: memory, connections and uptime are lost, files and configuration stay"
SHUTDOWN = "boot.host_shutdown_timeout"
SHUTDOWN_S = 30  # the daemon's own default of that key
NO_MEANING = ("goal", "iterations")


def refuse_idle_words(options: Options) -> None:
    """UsageError for a word that would have no effect in the mode that was asked for."""
    own = options.backend_args
    if options.mode is not Mode.NEAR_LIVE:
        if own.get("force_stop"):
            raise UsageError("--force-stop is for --mode near-live: no other mode shuts it down", hint="leave it out")
        return
    if idle := [word for word in NO_MEANING if word in options.given]:
        raise UsageError(f"--{idle[0]}: near-live carries no memory, so it has no rounds", hint="leave it out")
    if own.get("snapshot_first"):
        raise UsageError("--snapshot-first needs criu, and near-live does without", hint="leave it out")


def survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: dict[str, Any], options: Options
) -> Survey:
    """Checks about criu do not apply; UsageError for a container that does not run, or one daemon twice."""
    here, there = facts["source"]["lxd"], facts["target"]["lxd"]
    if not (here.get("usable") and there.get("usable")):
        return Survey()  # the plan says why, by `usable`
    nodes = source.node.name, target.node.name
    blind = over_api(source.node)
    refuse_one_daemon(here, there, *nodes)
    daemons = Daemon(source.node, source, here["socket"]), Daemon(target.node, target, there["socket"])
    instance, pool = running(daemons[0], workload, here["server"]), other_pool(options)
    looks = cast(Shell, apisurvey.Devices(daemons[1])) if blind else target
    meets = rendezvous.choose(*daemons, here["server"], rendezvous.wish(options.backend_args), relays=blind)
    held = {**there, "apparmor": True}
    found = [
        Check("near-live", Level.WARN, LOST, "--mode auto moves it with its memory, where both daemons have criu"),
        meets.check,
        *(check for check in checks.daemons(here, held, *nodes, False) if check.id == "lxd-kind"),
        *_kept(instance, nodes[0]),
        *checks.renamed(workload.name, target_name, nodes[1]),
        *(check for check in checks.storage(instance, *daemons, nodes[1], pool) if check.id == "pool"),
        *checks.profiles_and_devices(instance, daemons[1], looks, nodes[1]),
        *_unseen(options),
    ]
    found += landing.decided(daemons, looks, instance, pool, found)
    details = {
        "sockets": [url_of(node.node) if blind else fact["socket"] for node, fact in ((source, here), (target, there))],
        **meets.details(),
        "pool": landing.pool_there(instance, daemons[1], pool),
        "other_pool": pool,
        "shutdown_s": shutdown_s(instance["expanded_config"]),
        "force_stop": bool(options.backend_args.get("force_stop")),
        "keep_source": bool(options.backend_args.get("keep_source")),
        "keys": {keys.AUTOSTART: "false"},
    }
    return Survey(
        tuple(kinds.in_words_of(here["server"], found)),
        details,
        mode=Mode.NEAR_LIVE,
        why=f"{WHY}; {meets.check.reason}",
    )


def shutdown_s(config: Mapping[str, str]) -> int:
    """Return how long the container may take to shut down, by the key that the daemon itself goes by."""
    said = str(config.get(SHUTDOWN, ""))
    return max(1, int(said)) if said.isdecimal() else SHUTDOWN_S


def _kept(instance: Mapping[str, Any], node: str) -> Iterator[Check]:
    """A container that vanishes when it stops could not go back."""
    gone = bool(instance.get("ephemeral"))
    text = "it is ephemeral: the daemon deletes it when it stops" if gone else "it stays when it stops"
    remedy = "" if not gone else f"lxc config edit {instance['name']}, and set ephemeral: false"
    yield Check("ephemeral", Level.FAIL if gone else Level.OK, text, remedy, node)


def _unseen(options: Options) -> Iterator[Check]:
    if options.verify:
        text = "--verify: near-live looks twice that the copy runs, and at nothing else"
        yield Check("verify", Level.FAIL, text, "leave out --verify")
