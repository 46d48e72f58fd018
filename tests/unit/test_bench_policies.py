"""The rules beside ours in the benchmark: tables, as for ours, and nothing of them is left in the engine."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from reberth.run import rounds
from reberth_hooks import Iteration, Options

PATH = Path(__file__).parents[1] / "bench/policies.py"


@pytest.fixture(scope="module")
def policies():
    spec = importlib.util.spec_from_file_location("bench_policies", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ([1000, 64], "few"),
        ([1000, 65], ""),
        ([1000, 1100], ""),
        ([1000, 1101], "growth"),
        ([500] * 8, ""),
        ([500] * 9, "iterations"),
    ],
)
def test_phaul(policies, written, why):
    assert policies.phaul(Options(), [Iteration(n, pages_written=w) for n, w in enumerate(written)]) == why


@pytest.mark.parametrize(("left", "why"), [(3000, "max-downtime"), (3001, "")])
def test_qemu_compares_what_is_left_with_the_rate_of_the_link(policies, left, why):
    last = Iteration(0, 0, 10_000, left, 0, 10_000 * policies.PAGE, 1.0 + policies.ROUND_S)
    assert policies.qemu(Options(max_downtime_s=0.3), [last]) == why


def test_each_rule_ends_and_the_engine_is_as_before(policies):
    before = dict(rounds._POLICIES)
    walks = [policies.walk(rule, policies.Load(1e9, 1e9, 4e8, 1e8)) for rule in policies.RULES]
    assert [one.rounds for one in walks] == [6, 9, 30, 2]  # faster than the link: only one rule notices
    assert before == rounds._POLICIES
    assert policies.table(["1 Gbit/s"]).count("\n") == 1 + len(policies.LOADS)
