"""A seeded sample of the fault matrix (`make soak` runs all of it), and the proof that the judge is no rubber stamp.

Live because kills, cut links and full disks meet real processes; the model is in tests/unit.

Each twin plants a fault into the code that runs on the nodes; the same judgement that passes the sample must fail it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import power
from faults.cases import Case, generate, points, sample
from faults.run import Field, Result, changed_code, good_journal, run_case
from livekit.command import Command

from reberth_lab.lab import Lab

COUNT = 4  # of each backend
SEED = int(os.environ.get("REBERTH_FAULT_SEED", "20261125"))


@pytest.fixture(scope="session")
def field(lab: Lab, reberth: Command) -> Field:
    return Field(lab, reberth, random.Random(SEED))


@pytest.fixture(scope="session")
def journals(field: Field) -> dict[str, list[dict[str, object]]]:
    """What a run without a fault journals, for each backend."""
    return {backend: good_journal(field, backend) for backend in ("criu", "runc")}


@pytest.mark.parametrize("number", range(COUNT))
@pytest.mark.parametrize("backend", ["criu", "runc"])
def test_a_fault_of_the_matrix(backend: str, number: int, field: Field, journals: dict) -> None:
    case = sample(generate(backend, journals[backend]), COUNT, SEED)[number]
    print(f"REBERTH_FAULT_SEED={SEED}: {case.id}")
    result = run_case(field, case)
    assert result.problems == [], f"{case.id} (REBERTH_FAULT_SEED={SEED}): exit {result.code}, {result.recovered}"


# What is planted, where the controller stands then, what is struck there, and a word of what the judge must say.
FENCE = 'echo 1 > "$cgroup/cgroup.freeze" || exit 1\n  tries=0 frozen=0'
LATE = '[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ]'
UNFENCED = f"{LATE} || {FENCE}\n  {LATE} && frozen=1"
TWINS = {
    "an-unfenced-source": (
        [("node/criu/tool.py", FENCE, UNFENCED)],
        ("criu-source", "commit-source"),
        "who ran",
    ),
    "a-permit-before-ready": (
        [("run/decide.py", "return Decision(Step.ASK_READY,", "return Decision(Step.PERMIT,")],
        ("controller", "commit-source"),
        "who ran",
    ),
    "a-resumed-source-after-ready": (
        [
            ("node/runs/source.py", 'if self.run.vote() == "READY" and not', "if False and not"),
            ("node/runs/source.py", 'if vote != "RESUME" and not aborted', "if False"),
        ],
        ("controller", "commit-source"),
        "who ran",
    ),
    # Healed by the mended link, so it is seen only by a look before that.
    "a-helper-that-ignores-silence": (
        [("node/daemon/loop.py", " or silent_s > SILENCE_S)", ")")],
        ("link-down-source", "restore"),
        "never acted alone",
    ),
    "a-flipped-page": ([], ("flipped-page", "restore"), "is not well"),
}


@pytest.fixture
def planted(request: pytest.FixtureRequest, field: Field, tmp_path: Path) -> Iterator[Field]:
    """The field in which the code of one twin runs."""
    with changed_code(tmp_path, TWINS[request.param][0]) as env:
        yield Field(field.lab, field.command, field.chance, env, alone_s=30)


@pytest.mark.parametrize(("planted", "name"), [(name, name) for name in TWINS], indirect=["planted"], ids=list(TWINS))
def test_a_planted_violation_is_caught(name: str, planted: Field, journals: dict) -> None:
    _, (fault, point), word = TWINS[name]
    found = next(p for p in points(journals["criu"]) if p.begins and p.name == point)
    moment = "before" if fault == "controller" else "at"
    result: Result = run_case(planted, Case("criu", fault, found.at, point, moment, found.stage))
    print("\n".join(result.problems))
    assert any(word in problem for problem in result.problems), f"{name} was not noticed: {result}"


ABORTS = [("node/runs/target.py", 'return "ABORT" if short else ""', 'return "ABORT"')]


def test_a_held_copy_outlives_the_power_of_its_source(field: Field, journals: dict) -> None:
    """One of the 28 cuts of `make soak`: the worst of them, READY not yet asked for and the controller gone as well."""
    result = power.cut(field, journals["criu"], "criu", "ask-ready", "both")
    assert (result.problems, result.outcome) == ([], "moved")


def test_a_target_that_aborts_by_itself_is_caught(field: Field, journals: dict, tmp_path: Path) -> None:
    with changed_code(tmp_path, ABORTS) as env:
        planted = Field(field.lab, field.command, field.chance, env)
        result = power.cut(planted, journals["criu"], "criu", "ask-ready", "both")
    assert any("a whole copy was held" in problem for problem in result.problems), result
