"""How memory travels: the rounds of a mode, one after the other, with what each leaves to be carried."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from reberth.plugin.stage import Stage
from reberth.run.rounds import rounds, why_stop
from reberth.run.session import Session
from reberth_hooks import Channel, Checkpoint, Iteration, Receipt, Tree

PHASE_OF = {
    "images": "final-transfer",
    "filesystem-delta": "final-sync",
    "files-delta": "final-sync",
    "filesystem": "initial-sync",
}
Phase = Callable[[str], AbstractContextManager[None]]


def travel(
    stage: Stage, session: Session, history: list[Iteration], phase: Phase, carry: Callable[[Tree], Receipt]
) -> tuple[Checkpoint, list[Receipt]]:
    """Run all rounds, the final one last; each one's cost is in `history` before the next is decided on.

    Returns what the final one gave, and what arrived. A round's seconds are those until it has arrived, which is what
    the next one has to carry for; the final round's are its freeze alone.
    """
    receipts: list[Receipt] = []
    plan, final = session.plan, Checkpoint((), Iteration(0))
    for round_ in rounds(plan.rounds_mode, plan.options, history, lambda: session.switched):
        started_s = time.monotonic()
        with phase("final-dump" if round_.final else "pre-dump"):
            if round_.lazy or Channel.MEMORY in plan.routes:
                stage.receive(session, round_)
            final = stage.checkpoint(session, round_)
        for parcel in (p for p in final.parcels if isinstance(p, Tree)):
            with phase(PHASE_OF.get(parcel.kind, "final-transfer") if round_.final else "pre-transfer"):
                receipts.append(carry(parcel))
        seconds = final.iteration.seconds if round_.final else time.monotonic() - started_s
        history += [*final.earlier, replace(final.iteration, seconds=seconds)]
    return final, receipts


def why_ended(final: Checkpoint, session: Session, history: Sequence[Iteration]) -> str:
    """Return why there was no further round: in a daemon's own words, on the user's wish, or by the policy."""
    return final.why or session.why_switched or why_stop(session.plan.options, history[:-1]) or "single round"
