"""The phases that the address takes part in; each effect is one operation of a node's helper, undone by its journal."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from reberth_address.survey import KEY
from reberth_hooks import Checkpoint, HelperError, Move, RefusedError, Restored, Round, Shell, hookimpl


def _places(move: Move) -> dict[str, Any] | None:
    """Return where the address is and where it goes; None when none is to move."""
    return move.plan.details.get(KEY) if move.plan.options.move_address else None


@hookimpl(wrapper=True)
def reberth_prepare(move: Move) -> Generator[None, bool, bool]:
    """A failed check of the address may have been skipped, but not what the move cannot do without."""
    if move.plan.options.move_address and _places(move) is None:
        text = f"{move.plan.options.move_address} cannot move from {move.plan.source.name} to {move.plan.target.name}"
        raise RefusedError(text, hint="the checks of the plan say why; only address-free can be skipped")
    return (yield)


@hookimpl(wrapper=True)
def reberth_checkpoint(move: Move, round: Round) -> Generator[None, Checkpoint, Checkpoint]:
    """The source gives the address away once the workload is held, while CRIU's network lock stands."""
    answer = yield
    places = _places(move)
    if places and round.final:
        move.source.call("address_del", place=places["source"])
    return answer


@hookimpl(wrapper=True)
def reberth_restore(move: Move) -> Generator[None, Restored, Restored]:
    """The target has the address before the first socket is restored."""
    places = _places(move)
    if places:
        move.target.call("address_add", place=places["target"])
    return (yield)


@hookimpl(wrapper=True)
def reberth_commit(move: Move) -> Generator[None, bool, bool]:
    """The target has announced the address as the copy landed; once more, in case that was lost (RFC 5227)."""
    answer = yield
    places = _places(move)
    if places:
        _announce(move, move.target, places["target"])
    return answer


@hookimpl(wrapper=True)
def reberth_rollback(move: Move) -> Generator[None, bool, bool]:
    """The source's helper has taken the address back before it let the workload run; said once more, and looked at."""
    answer = yield
    places = _places(move)
    if places:
        _announce(move, move.source, places["source"])
    return answer


def _announce(move: Move, end: Shell, place: dict[str, Any]) -> None:
    """Announce it where it should be now; a warning when it is not there."""
    try:
        end.call("address_announce", address=place["address"], ifname=place["ifname"])
    except HelperError as error:
        words = f"ip address add {place['address']}/{place['prefix_len']} dev {place['ifname']}"
        move.emit("warning", f"{error.message}; on node {end.node.name}: {words}")
