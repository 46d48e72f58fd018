"""`--mode auto` on this machine's kernel: it says what is missing, and takes what its own figures speak for.

Live because the choice rests on what this kernel and this criu can do, measured on real processes.

Which mode that is depends on how fast the machine is at the moment, so the choice is held against the plan's figures
and reasons, and the move against the plan in its own journal.
"""

from __future__ import annotations

from typing import Any

from livekit.command import Command, journal_of
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth.plan.choose import MUCH_SHORTER
from reberth_lab.node import Node

AUTO = ("--mode", "auto")
SHORT, LONG = ("--max-downtime", "10ms"), ("--max-downtime", "600s")


def check_choice(plan: dict[str, Any], most_s: float) -> None:
    """The mode is the one that the figures and the limit speak for, and the reasons name what this kernel lacks."""
    told, why = plan["predicted"], plan["why"]
    plain_s = told["stop-and-copy"]["downtime_s"]
    others = {name: one["downtime_s"] for name, one in told.items() if name != "stop-and-copy"}
    assert why.startswith(f"{plan['mode']}: "), why
    if plain_s <= most_s:
        assert plan["mode"] == "stop-and-copy", plan
        return
    shorter = {name for name, seconds in others.items() if seconds < MUCH_SHORTER * plain_s}
    assert plan["mode"] in (shorter or {"stop-and-copy"}), plan
    for mode in ("pre-copy", "hybrid"):
        if mode not in told:
            assert f"no {mode}: " in why and "SOFT_DIRTY" in why, why
            assert plan["mode"] != mode


def test_auto_says_why_and_keeps_to_its_plan(
    works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node
) -> None:
    handle = works.raw("memory", "--mib", "48", "--rate", "2")
    word = word_of(node1, handle)
    patient = reberth.run("plan", word, "node2:", *AUTO, *LONG, "--json")
    assert patient.code == 0, str(patient)
    assert patient.report["mode"] == "stop-and-copy" and "within 600 s" in patient.report["why"], patient.report["why"]
    hasty = reberth.run("plan", word, "node2:", *AUTO, *SHORT, "--json")
    assert hasty.code == 0, str(hasty)
    assert "more than 0.01 s" in hasty.report["why"], hasty.report["why"]
    check_choice(hasty.report, 0.01)
    done = reberth.move(word, "node2:", *AUTO, *SHORT)
    assert done.code == 0, str(done)
    (record,) = [one for one in journal_of(reberth.state, done.report["id"]) if one["event"] == "plan"]
    plan = record["plan"]
    print(plan["why"])
    check_choice({**plan, **plan["facts"]}, 0.01)
    assert done.report["mode"] == plan["mode"], str(done)
    assert done.report["predicted"] == plan["facts"]["predicted"][plan["mode"]], str(done)
    healthy(node2, handle)
    assert gone(node1, handle)
    works.stop(handle)
    watch.check()
