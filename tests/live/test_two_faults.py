"""A seeded sample of two faults at once; `make soak` runs all schedules.

Live because the second fault meets what the first one left on real nodes.
"""

from __future__ import annotations

import os
import random

import pytest
from faults.pairs import run_pair
from faults.pairs_table import Pair, sample
from faults.run import Field, good_journal
from livekit.command import Command

from reberth_lab.lab import Lab

SEED = int(os.environ.get("REBERTH_FAULT_SEED", "20261201"))
COUNT = 2


@pytest.fixture(scope="module")
def field(lab: Lab, reberth: Command) -> Field:
    """Where they are run."""
    return Field(lab, reberth, random.Random(SEED))


@pytest.fixture(scope="module")
def journal(field: Field) -> list[dict[str, object]]:
    """What a run without a fault journals."""
    return good_journal(field, "criu")


@pytest.mark.parametrize("pair", sample(COUNT, SEED), ids=lambda pair: pair.name)
def test_two_faults_at_once(pair: Pair, field: Field, journal: list[dict[str, object]]) -> None:
    found = run_pair(field, pair, journal)
    assert found.problems == [], f"{pair.name} (REBERTH_FAULT_SEED={SEED}): exit {found.code}, {found.recovered}"
