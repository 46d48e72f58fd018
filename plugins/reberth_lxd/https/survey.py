"""What can be said beforehand where a daemon's API is all that is reached, and what cannot; both are told."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from reberth_hooks import Check, Level, Options, Shell, Survey, Workload
from reberth_lxd.api import keys, kinds, landing, rendezvous
from reberth_lxd.api.client import Daemon
from reberth_lxd.api.wanted import other_pool, refuse_one_daemon, running, told
from reberth_lxd.held import checks
from reberth_lxd.https.connect import url_of

OF_SHAPE = ("console", "nesting", "id-map")
MAYBE = "pre-copy, if the source's daemon finds that it can track memory"


def facts(said: Mapping[str, Any]) -> dict[str, object]:
    """Return what a daemon's environment tells beside its version."""
    features = said.get("kernel_features") or {}
    return {
        "usable": True,
        "arch": said.get("kernel_architecture"),
        "fingerprint": said.get("certificate_fingerprint"),
        "idmapped_off": str(features.get("idmapped_mounts", "true")).lower() == "false",
    }


class Devices:
    """A target's network devices, asked for as a node's files are; it has no runs that a helper could tell."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def call(self, op: str, paths: list[str] | None = None) -> list[Any]:
        """Return what the daemon says of each, None for one that is not there."""
        if op == "runs":
            return []
        assert op == "stats" and paths is not None
        return [self.daemon.get("networks", posixpath.basename(path)) for path in paths]


def survey(
    workload: Workload, target_name: str, source: Shell, target: Shell, facts: dict[str, Any], options: Options
) -> Survey:
    """As by ssh, of what the daemons say; UsageError for a container that does not run, or one daemon twice."""
    here, there = facts["source"]["lxd"], facts["target"]["lxd"]
    if not (here.get("usable") and there.get("usable")):
        return Survey()  # the plan says why, by `usable`
    nodes = source.node.name, target.node.name
    if dead := list(checks.not_live(here, there, *nodes)):
        return Survey(tuple(kinds.in_words_of(here["server"], dead)))
    refuse_one_daemon(here, there, *nodes)
    daemons = Daemon(source.node, source), Daemon(target.node, target)
    instance, pool = running(daemons[0], workload, here["server"]), other_pool(options)
    want = keys.wanted(options, instance["expanded_config"], True)
    if want.why == keys.ABLE:
        want = replace(want, why=MAYBE)
    looks = cast(Shell, Devices(daemons[1]))
    meets = rendezvous.choose(*daemons, here["server"], rendezvous.wish(options.backend_args), relays=True)
    found = [
        meets.check,
        *(c for c in checks.daemons(here, {**there, "apparmor": True}, *nodes, False) if c.id == "lxd-kind"),
        *(c for c in checks.shape(instance, here, there, "", False, nodes[0]) if c.id in OF_SHAPE),
        *checks.renamed(workload.name, target_name, nodes[1]),
        *checks.kept(instance, options, here["server"], nodes[0], held=False),
        *checks.storage(instance, *daemons, nodes[1], pool),
        *checks.profiles_and_devices(instance, daemons[1], looks, nodes[1]),
        *_unseen(options, want.precopy),
    ]
    found += landing.decided(daemons, looks, instance, pool, found)
    details = {"sockets": [url_of(source.node), url_of(target.node)], **meets.details()}
    return told(here["server"], found, details, want, options)


def _unseen(options: Options, precopy: bool) -> Iterator[Check]:
    """Yield what was not looked at, and what may come of it: said before, as criu cannot be held."""
    text = (
        "nobody looked at: both criu, the target's AppArmor, the first process, TMPDIR, whether it was restored before"
    )
    if precopy:
        text += "; of a round of pre-copy the daemon tells its pages alone, not how long it took"
    yield Check("unseen-lxd", Level.WARN, text, "reach the nodes by ssh: then all of it is looked at")
    text = "a file that is written again, as long, in the second in which it is copied first may arrive without that"
    yield Check("late-writes", Level.WARN, text, "reach the nodes by ssh: then the copy is compared by content")
    if options.backend_args.get("snapshot_first"):
        text = "if LXD takes a restore that failed for a success, it goes back to the snapshot of before the move"
        yield Check("false-success", Level.WARN, text, "by ssh criu is held, and a false success is a veto")
    else:
        text = "if LXD takes a restore that failed for a success, it is started afresh: its memory is lost (exit 60)"
        yield Check("false-success", Level.WARN, text, "--snapshot-first, or reach the nodes by ssh")
    if options.verify:
        text = "--verify: nobody can look into the copy, and the source is gone when it runs"
        yield Check("verify", Level.FAIL, text, "leave out --verify, or reach the nodes by ssh")
