"""Plugins of the kit: `Saboteur` fails on purpose around a hook, `Witness` looks on, `wire` joins two nodes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any

from reberth_hooks import (
    Channel,
    Declaration,
    Event,
    Mode,
    Move,
    Node,
    ReberthError,
    Receipt,
    Role,
    Round,
    Route,
    Tree,
    hookimpl,
)

PHASES = ("prepare", "receive", "sync", "checkpoint", "transfer", "restore", "commit", "rollback")


class ControllerDiedError(BaseException):
    """The controller is gone in this moment: nothing of it runs any more."""


def wrapping(name: str, roles: frozenset[Role], around: Callable[[str, str, Any, Any], None]) -> ModuleType:
    """A plugin that calls `around(hook, "before" | "after", move, answer)` on each phase."""
    module = ModuleType(f"kit_{name}")

    def describe() -> Declaration:
        return Declaration(f"{name} of the contract kit", roles)

    module.reberth_describe = hookimpl(describe)  # type: ignore[attr-defined]
    for phase in PHASES:
        setattr(module, f"reberth_{phase}", _wrapper(phase, around))
    return module


def _wrapper(phase: str, around: Callable[[str, str, Any, Any], None]) -> Any:
    def wrap(move: Any) -> Generator[None, Any, Any]:
        around(phase, "before", move, None)
        answer = yield
        around(phase, "after", move, answer)
        return answer

    return hookimpl(wrap, wrapper=True)


class Saboteur:
    """Raises `error` before or after the first call of a hook; `struck` tells whether it came to that.

    With `since` only calls after that other hook count: a transfer of the first copy is not one of the images.
    """

    def __init__(self, hook: str, when: str, error: BaseException | None = None, since: str = "") -> None:
        self.hook, self.when, self.struck = hook.removeprefix("reberth_"), when, False
        self.since = since
        self.error = error or ReberthError(f"the saboteur struck {when} {self.hook}")
        if self.hook not in PHASES or when not in ("before", "after"):
            raise ValueError(f"no such moment: {when} {hook}")
        self.plugin = wrapping("saboteur", frozenset({Role.WRAPPER}), self._around)

    def _around(self, hook: str, when: str, move: Any, answer: Any) -> None:
        if (hook, when) == (self.since, "after"):
            self.since = ""
        if (hook, when) == (self.hook, self.when) and not self.struck and not self.since:
            self.struck = True
            raise self.error


class Witness:
    """Sees every phase and every event; `look` is called at each, `answers` keeps what the phases gave."""

    def __init__(self, look: Callable[[str], None]) -> None:
        self.look = look
        self.answers: list[tuple[str, Any]] = []
        self.events: list[Event] = []
        self.plugin = wrapping("witness", frozenset({Role.WRAPPER, Role.OBSERVER}), self._around)

        def event(event: Event) -> None:
            self.events.append(event)
            self.look(f"{event.kind} {event.text}")

        self.plugin.reberth_event = hookimpl(event)  # type: ignore[attr-defined]

    def _around(self, hook: str, when: str, move: Any, answer: Any) -> None:
        self.look(f"{when} {hook}")
        if when == "after":
            self.answers.append((hook, answer))


def wire() -> ModuleType:
    """The lab's own connector and transport: the pipe of the session, and the helper's stream of trees."""
    module = ModuleType("kit_wire")

    def describe() -> Declaration:
        roles = frozenset({Role.CONNECTOR, Role.TRANSPORT})
        carries, modes = frozenset({Channel.FILES}), frozenset({Mode.STOP_AND_COPY})
        return Declaration("joins two nodes of the contract kit", roles, carries=carries, modes=modes)

    def connect(node: Node) -> Route:
        return Route()

    def receive(move: Move, round: Round) -> bool:
        move.open_pipe()
        return True

    def transfer(move: Move, parcel: Tree) -> Receipt:
        receiving = move.target.begin("tree_recv", into=parcel.into, kind=parcel.kind)
        keep = parcel.kind != "images"
        sending = move.source.begin("tree_send", path=parcel.path, kind=parcel.kind, keep=keep)
        got, sent = move.gather(receiving, sending)
        if got["digest"] != sent["digest"]:
            raise ReberthError(f"what arrived in {parcel.into} is not what was sent")
        return Receipt(parcel.kind, parcel.into, sent["bytes"], sent["files"], sent["seconds"])

    for function in (describe, connect, receive, transfer):
        setattr(module, f"reberth_{function.__name__}", hookimpl(function))
    return module
