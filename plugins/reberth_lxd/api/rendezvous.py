"""Who connects to whom: the target's daemon to the source's (pull), the other way (push), or this machine to both.

Each daemon is asked beforehand whether it reaches the other, by an image that does not exist: it looks for that at the
other daemon, whose certificate is pinned in the request, and ends with "not found" when it came so far.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any

from reberth_hooks import Check, CommandError, Level, Move, UsageError
from reberth_lxd.api import landing, request
from reberth_lxd.api.client import Daemon, over
from reberth_lxd.api.explain import explain
from reberth_lxd.api.keys import AUTOSTART
from reberth_lxd.api.relay import Relay
from reberth_lxd.client.native import PULL, PUSH, RELAY, WAYS

SIDES = ("source", "target")
MOST_ADDRESSES = 8  # of a daemon on `[::]:8443`, which names those of all its bridges
LONGER_S = 2.0
PROBE_S, ASK_S = 12.0, 0.05  # LXD 5.0.2 takes 20 s for an address that does not answer (measured 2026-11-28)
NO_WAY = ("ailed to connect", "Unable to connect", "ailed connecting")
KNOWN = ("connection refused", "timeout", "no route to host", "network is unreachable", "certificate")
TEXT = {
    PULL: "pull: the daemon of {target} asks the one of {source} at {url}",
    PUSH: "push: the daemon of {source} asks the one of {target} at {url}",
    RELAY: "relay: this machine passes on what the daemons send",
}


@dataclass(frozen=True, slots=True)
class Meeting:
    """The way, the address of the daemon that is asked (empty for relay), and the verdict of the preflight."""

    way: str
    url: str
    check: Check

    def details(self) -> dict[str, str]:
        """Return what the phases need to know again."""
        return {"way": self.way, "url": self.url, "why_way": self.check.reason}


def wish(backend_args: Mapping[str, Any]) -> str:
    """Return the way that was asked for, empty for none; UsageError for one that there is not."""
    way = str(backend_args.get("lxd_mode") or "")
    if way and way not in WAYS:
        raise UsageError(f"--lxd-mode: {way!a} is none of {', '.join(WAYS)}")
    return way


def choose(source: Daemon, target: Daemon, kind: str, wanted: str, relays: bool) -> Meeting:
    """Return the way that was asked for, else the first one that works; `relays`: this machine reaches both daemons
    itself.

    The check `lxd-address` fails when there is none.
    """
    said: list[str] = []
    names = {"source": source.node.name, "target": target.node.name}
    for way in [wanted] if wanted else [PULL, PUSH]:
        if way == RELAY:
            continue
        asking, asked = (target, source) if way == PULL else (source, target)
        url, words = reached_at(asking, asked, kind)
        if url is None and way in (PULL, wanted):  # that cannot be asked
            url = next(iter(addresses(asked)), "")
        if url:
            return Meeting(way, url, _verdict(True, [*said, TEXT[way].format(**names, url=url), *words]))
        said += words
    if relays and wanted in ("", RELAY):
        return Meeting(RELAY, "", _verdict(True, [*said, TEXT[RELAY]]))
    if wanted == RELAY:
        said.append("relay: this machine reaches the daemons through ssh alone")
    asked = target if wanted == PUSH else source
    return Meeting(wanted or PULL, next(iter(addresses(asked)), ""), _verdict(False, said, asked.node.name))


def _verdict(good: bool, said: list[str], asked: str = "") -> Check:
    remedy = "let it listen where the other one reaches it: lxc config set core.https_address ADDRESS:8443; "
    remedy += f'where it is reached by another address: [nodes.{asked}.lxd] url = "https://ADDRESS:8443"'
    return Check("lxd-address", Level.OK if good else Level.FAIL, "; ".join(said), "" if good else remedy)


def addresses(daemon: Daemon) -> list[str]:
    """Return where the other daemon may find this one.

    As configured or as the client has it, then each that it says.
    """
    own = str(daemon.node.options_of("lxd").get("url") or "").rstrip("/")
    listens = [f"https://{one}" for one in daemon.environment.get("addresses") or []]
    return list(dict.fromkeys([*([own] if own.startswith("https:") else []), *listens]))[:MOST_ADDRESSES]


def reached_at(asking: Daemon, asked: Daemon, kind: str) -> tuple[str | None, list[str]]:
    """Return the first address by which one daemon reaches the other, empty for none, with what is to be said of the
    others.

    None where it cannot be asked. All are asked at once, as one that never answers takes its time.
    """
    names = f"the daemon of {asking.node.name} does not reach"
    if not (urls := addresses(asked)):
        return "", [f"the daemon of {asked.node.name} does not listen on HTTPS"]
    begun: dict[str, str] = {}
    certificate = str(asked.environment.get("certificate") or "")
    try:
        for url in urls:
            words = request.for_nothing(url, certificate, kind, secrets.token_hex(16))
            begun[url] = asking.post("images", json=words)["url"]
        found = _answers(asking, begun)
    except CommandError as error:
        return None, [f"whether it is reached could not be asked ({error.message})"]
    reached = next((url for url in urls if found[url] == ""), "")
    before = urls[: urls.index(reached)] if reached else urls
    return reached, [f"{names} {url} ({found[url] or 'no answer'})" for url in before]


def _answers(asking: Daemon, begun: Mapping[str, str]) -> dict[str, str | None]:
    """Return why each address is not reached, empty for one that is, None for one that has not answered in time.

    A later one counts when those before it have failed, or have been silent for a while longer.
    """
    found: dict[str, str | None] = dict.fromkeys(begun)
    deadline = time.monotonic() + PROBE_S
    while time.monotonic() < deadline and None in found.values():
        for url, operation in begun.items():
            if found[url] is None and over(ended := asking.operation(operation)):
                found[url] = _why(str(ended.get("err") or ""))
                if found[url] == "":
                    deadline = min(deadline, time.monotonic() + LONGER_S)
        if "" in found.values() and None not in list(found.values())[: list(found.values()).index("")]:
            break
        time.sleep(ASK_S)
    return found


def _why(failed: str) -> str:
    if any(word in failed for word in NO_WAY):
        return next((word for word in KNOWN if word in failed), failed[-120:])
    return ""


def begin(
    move: Move,
    source: Daemon,
    target: Daemon,
    instance: dict[str, Any],
    begun: Callable[[int, str], None] = lambda end, url: None,
    files: Mapping[str, Any] | None = None,
) -> AbstractContextManager[Any]:
    """Let both daemons begin, in the way of the plan; `begun` is told the end (0, 1) and the URL of its operation,
    which is journaled then.

    `files` makes it a copy of files alone, and are further words for the target. The answer is to be kept open until
    both have ended. CommandError with the words of the daemon that says no.
    """
    details, name = move.plan.details, move.plan.workload.name
    way, base = details.get("way", PULL), str(details["url"]).rstrip("/")
    keys, calm = on_target(move), {} if files is None else {"live": False}
    instance = landing.in_pool(instance, str(details.get("other_pool") or ""))
    move.emit("step", str(details.get("why_way") or way))

    def journaled(end: int, url: str) -> None:
        begun(end, url)
        move.note(f"operation.{SIDES[end]}", url)

    def offer(to: Mapping[str, Any] | None = None) -> dict[str, Any]:
        offered = source.post("instances", name, json=request.for_source(name, to) | calm)
        journaled(0, offered["url"])
        return offered

    def take(json: dict[str, Any]) -> dict[str, Any]:
        taken = _take(move, target, json | {"source": json["source"] | calm | dict(files or {})})
        journaled(1, taken["url"])
        return taken

    if way == PULL:
        offered = offer()
        url, certificate = base + offered["url"], str(source.environment["certificate"])
        take(request.for_target(instance, url, certificate, offered["secrets"], keys))
        return nullcontext()
    taken = take(request.for_push(instance, keys))
    if way == PUSH:
        certificate = str(target.environment["certificate"])
        offer({"operation": base + taken["url"], "certificate": certificate, "secrets": taken["secrets"]})
        return nullcontext()
    offered = offer()
    nodes, urls = (source.node, target.node), (offered["url"], taken["url"])
    return closing(Relay(nodes, urls, (offered["secrets"], taken["secrets"])))


def _take(move: Move, target: Daemon, json: dict[str, Any]) -> dict[str, Any]:
    """Let the target make the copy; CommandError with the target's own words."""
    move.note("created", True)  # from here on an instance of this name on the target is ours to remove
    try:
        return landing.make(target, json)
    except CommandError as error:
        cause, hint = explain(error.message)
        raise CommandError(f"the target's daemon does not take it: {cause}", hint=hint, tail=error.message) from error


def on_target(move: Move) -> dict[str, str]:
    """Return the keys that the copy is made with, as they were but for one.

    A daemon that starts again starts what it took for running, be it a copy that never ran (LXD 5.0.2, 2026-11-28):
    not before the commit.
    """
    return {**move.recall("keys"), AUTOSTART: "false"}
