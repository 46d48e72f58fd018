"""A transport without a fault."""

from __future__ import annotations

from reberth_hooks import Channel, Declaration, Mode, Move, ReberthError, Receipt, Role, Round, Tree, hookimpl


@hookimpl
def reberth_describe() -> Declaration:
    roles, modes = frozenset({Role.TRANSPORT}), frozenset({Mode.STOP_AND_COPY})
    return Declaration("carries trees", roles, carries=frozenset({Channel.FILES}), modes=modes, tools=("truncate",))


@hookimpl
def reberth_receive(move: Move, round: Round) -> bool:
    move.open_pipe()
    return True


@hookimpl
def reberth_transfer(move: Move, parcel: Tree) -> Receipt:
    receiving = move.target.begin("tree_recv", into=parcel.into, kind=parcel.kind)
    sending = move.source.begin("tree_send", path=parcel.path, kind=parcel.kind, keep=parcel.kind != "images")
    got, sent = move.gather(receiving, sending)
    if got["digest"] != sent["digest"]:
        raise ReberthError("what arrived is not what was sent")
    return Receipt(parcel.kind, parcel.into, sent["bytes"], sent["files"], sent["seconds"])
