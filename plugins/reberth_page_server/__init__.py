"""Transport `page-server`: memory goes from the dump straight into the target's images, while it is dumped.

criu writes to a page server on the source that is our own helper, and criu's page server on the target is fed by the
other helper; between them the pages use the connection that files use: straight by TLS where `direct` allows it, else
through ssh. Nothing of memory is ever written on the source, and nothing of either criu listens where others are.
"""

from __future__ import annotations

from reberth_hooks import Channel, Declaration, Mode, Move, Role, Round, hookimpl
from reberth_hooks.criu.modes import criu_version, header_bytes, parent_of
from reberth_hooks.criu.paging import place_of


@hookimpl
def reberth_describe() -> Declaration:
    """A transport for memory alone; all other images go by a transport for files beside it.

    Not for pages that follow the copy: these touch no disk anyway, and CRIU would send what the rounds before have
    brought a second time.
    """
    return Declaration(
        summary="CRIU's page server: memory straight into the target's images, without a copy on the source",
        roles=frozenset({Role.TRANSPORT}),
        carries=frozenset({Channel.MEMORY}),
        modes=frozenset({Mode.STOP_AND_COPY, Mode.PRE_COPY}),
        tools=("criu",),
    )


@hookimpl
def reberth_receive(move: Move, round: Round) -> bool:
    """Start the target's page server for this round, while the workload runs."""
    version = criu_version(move.plan.facts, "target", move.plan.workload.backend)
    move.target.call(
        "pages_listen", into=place_of(move, round), header_bytes=header_bytes(version), parent=parent_of(round)
    )
    return True
