"""Every phase and step of the engine with every trouble, by the engine itself: a new one without a row fails here.

The cells are what docs/protocol.md says: before the decision the source runs again, after it the copy runs; a source
that restarted before its dump was held has lost its workload (21), afterwards the held copy is the only one (0). A node
that could not be told of the end leaves the run pending (41), though the copy runs.

A cell says how the command ends, and, where something is left open, what `recover` then makes of it, with everything
in reach again: `20`, `0`, `40 moved`. Rows come from the code; who adds a phase or a step has to decide its cells.
"""

from __future__ import annotations

import ast
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from theatre import PLAN, Theatre, own_state  # noqa: F401

from reberth.commands.recover import recover
from reberth.run import engine, memory
from reberth.run.decide import Step, decide
from reberth_hooks import ReberthError

ROOT = Path(__file__).parents[2]
TROUBLES: dict[str, Callable[[Theatre], None]] = {
    "fails": lambda stage: fail(),
    "interrupt": lambda stage: os.kill(os.getpid(), signal.SIGINT),
    "source helper dies": lambda stage: stage.source.die(),
    "target helper dies": lambda stage: stage.target.die(),
    "source is cut off": lambda stage: setattr(stage.source, "reachable", False),
    "target is cut off": lambda stage: setattr(stage.target, "reachable", False),
    "source restarts": lambda stage: stage.source.reboot(),
    "target restarts": lambda stage: stage.target.reboot(),
}
# In the order of TROUBLES.
TABLE: dict[str, tuple[str, ...]] = {
    "prepare": ("20", "20", "20", "20", "40 rolled-back", "20", "21", "20"),
    "initial-sync": ("20", "20", "20", "20", "40 rolled-back", "20", "21", "20"),
    "final-dump": ("20", "20", "20", "20", "40 rolled-back", "20", "21", "20"),
    "final-transfer": ("20", "20", "20", "20", "40 rolled-back", "20", "0", "20"),
    "final-sync": ("20", "20", "20", "20", "40 rolled-back", "20", "0", "20"),
    "restore": ("20", "20", "20", "20", "40 rolled-back", "20", "0", "20"),
    "ask-ready": ("20", "0", "20", "20", "41 moved", "40 rolled-back", "0", "20"),
    "permit": ("20", "0", "0", "20", "41 moved", "40 moved", "0", "20"),
    "look": ("0", "0", "0", "0", "41 moved", "41 moved", "0", "40 held"),
    "commit": ("0", "0", "0", "0", "41 moved", "41 moved", "0", "0"),
    "finish": ("0", "0", "0", "0", "41 moved", "41 moved", "0", "0"),
}
# Where a phase or a step can be struck: the plugin's call, or the operation of an end.
PHASES = {
    "prepare": ("box", "prepare"),
    "initial-sync": ("wire", "filesystem"),
    "final-dump": ("box", "checkpoint"),
    "final-transfer": ("wire", "images"),
    "final-sync": ("wire", "filesystem-delta"),
    "restore": ("box", "restore"),
}
STEPS = {
    "ask-ready": (0, "vote"),
    "permit": (1, "decide"),
    "look": (1, "look"),
    "commit": (0, "release"),
    "finish": (1, "finish"),
}
# Not struck here: rounds before the last one end nothing (test_rounds.py); the ends of a run are made of steps; what
# only a way back or pages that follow have is struck in test_protocol.py and test_recover.py.
ELSEWHERE = {"pre-dump", "pre-transfer", "commit", "rollback", "recover"}
# Steps of a run that is recovered: tests/unit/test_protocol_loss.py and test_recover_words.py go through them.
ON_WORDS = {"permit-on-word", "resume-on-word", "end-lost-source", "thaw-lost-source", "end-lost-target"}
STEPS_ELSEWHERE = {"abort", "resume", "resume-aborted", "fill", "discard"} | ON_WORDS


def fail() -> None:
    raise ReberthError("it does not work")


def strike(stage: Theatre, where: str, trouble: Callable[[Theatre], None]) -> None:
    if where in PHASES:
        kind, name = PHASES[where]
        getattr(stage, kind).fail[name] = [lambda: trouble(stage)]
    else:
        side, op = STEPS[where]
        stage.shells[side].broken[op] = [lambda: trouble(stage)]


def cell(stage: Theatre, where: str, trouble: str) -> str:
    """What this case comes to."""
    strike(stage, where, TROUBLES[trouble])
    report = stage.engine.run()
    restarted = "restarts" in trouble
    if not restarted:
        stage.check(report)
    text = str(int(report.exit_code))
    if report.exit_code in (40, 41, 42, 50):
        for end in stage.ends:
            end.reachable = True
            end.finish_half_done()
        host = SimpleNamespace(stage=stage.stage, way=lambda plan: stage.reconnect, observe=lambda: None)
        again = recover(host, PLAN.id, "auto", False)[0]
        text += f" {again.outcome}"
    assert not (stage.source.running and stage.target.copy == "running")
    assert restarted or stage.source.tasks or stage.target.copy == "running"
    return text


@pytest.mark.parametrize("where", [*PHASES, *STEPS])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_every_phase_with_every_trouble(make_plugin, where, trouble):
    assert cell(Theatre(make_plugin), where, trouble) == TABLE[where][list(TROUBLES).index(trouble)]


def announced() -> set[str]:
    """Every name that the engine gives to a phase."""
    found = set(memory.PHASE_OF.values())
    trees = [ast.parse((ROOT / f"core/reberth/{name}.py").read_text("utf-8")) for name in ("run/engine", "run/memory")]
    for node in (node for tree in trees for node in ast.walk(tree)):
        name = getattr(getattr(node, "func", None), "attr", "") or getattr(getattr(node, "func", None), "id", "")
        if isinstance(node, ast.Call) and name in ("phase", "_end") and node.args:
            parts = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
            found |= {part for part in parts if isinstance(part, str)}
    return found


def test_every_phase_and_step_has_its_row():
    assert announced() == PHASES.keys() | ELSEWHERE
    assert {step.value for step in Step} == STEPS.keys() | STEPS_ELSEWHERE
    assert TABLE.keys() == PHASES.keys() | STEPS.keys()
    assert {len(row) for row in TABLE.values()} == {len(TROUBLES)}
    assert engine.decide is decide  # it is the engine's own transition function that test_protocol.py goes through
