"""The kit is worth its name: each broken plugin fails the test that is meant for it, the good ones fail none."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reberth.node.operations import hello, table
from reberth.node.survey import process_tree
from reberth.testing.lab import Lab
from reberth.testing.shell import LabShell
from reberth_hooks import Node

BROKEN = Path(__file__).parent / "broken"
GOOD = [path.stem for path in sorted(BROKEN.glob("good_*.py"))]
BAD = [path.stem for path in sorted(BROKEN.glob("*.py")) if path.stem not in (*GOOD, "suite")]


def constant(plugin: str, name: str) -> str:
    return re.search(rf'^{name} = "(.*)"$', (BROKEN / f"{plugin}.py").read_text(), re.M)[1]


def base(plugin: str) -> str:
    """The good one that a broken one is made of."""
    text = (BROKEN / f"{plugin}.py").read_text()
    return next(good for good in GOOD if f"from {good} import" in text)


REPORTER = """
import json
import os
def pytest_runtest_logreport(report):
    if report.when == "call" or report.failed:
        with open({place!r}, "a") as out:
            out.write(json.dumps([report.nodeid, report.outcome, report.longreprtext]) + chr(10))
"""


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory):
    """The one test of each broken plugin, and the same ones of the good: node id -> (outcome, words)."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "reporter.py").write_text(REPORTER.format(place=str(folder / "out")))
    suite = BROKEN / "suite.py"
    wanted = [f"{suite}::Test_{plugin}::{constant(plugin, 'FAILS')}" for plugin in BAD]
    # Of the good ones what their broken kin fail; the whole contract is kept by the bundled plugins.
    wanted += sorted({f"{suite}::Test_{base(plugin)}::{constant(plugin, 'FAILS')}" for plugin in BAD})
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "reporter", "-p", "no:cacheprovider", *wanted]
    path = f"{folder}:{':'.join(p for p in sys.path if p)}"
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=220, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path}
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = (folder / "out").read_text().splitlines()
    return {node.partition("::Test_")[2]: (outcome, words) for node, outcome, words in map(json.loads, lines)}


@pytest.mark.parametrize("plugin", BAD)
def test_a_broken_plugin_fails_its_test(outcomes, plugin):
    outcome, words = outcomes[f"{plugin}::{constant(plugin, 'FAILS')}"]
    assert outcome == "failed"
    assert re.search(constant(plugin, "BECAUSE"), words), words


@pytest.mark.parametrize("plugin", GOOD)
def test_a_good_plugin_fails_none(outcomes, plugin):
    found = {
        name: words
        for name, (outcome, words) in outcomes.items()
        if name.startswith(f"{plugin}::") and outcome != "passed"
    }
    assert found == {}
    assert len([name for name in outcomes if name.startswith(f"{plugin}::")]) > 2


def test_each_broken_plugin_says_what_is_wrong():
    assert len(BAD) >= 20
    for plugin in BAD:
        assert (BROKEN / f"{plugin}.py").read_text().startswith('"""'), plugin


# The lab speaks the helper's language


def parameters(function, leave_out):
    return {n: p.default for n, p in inspect.signature(function).parameters.items() if n not in leave_out}


def test_own_operations_take_what_the_helpers_take():
    names = {"run": "run_tool", "open": "open_run"}
    own = [name for name in vars(LabShell) if name.startswith("_op_")]
    assert own
    for name in own:
        op = name.removeprefix("_op_")
        assert op in table.OPS, op
        real = getattr(table, names.get(op, op), table.OPS[op])
        mine = parameters(getattr(LabShell, name), ("self",))
        assert mine == parameters(real, ("daemon", "progress")), op


def test_own_answers_have_the_keys_of_the_helpers(reberth_lab: Lab):
    shell = LabShell(Node("node1"), reberth_lab.machines["node1"])
    started = reberth_lab.process()
    assert shell.call("describe", pid=started.pid).keys() == process_tree.describe(None, None, pid=os.getpid()).keys()
    assert shell.call("hello").keys() == hello.hello(None, None).keys()
    real = process_tree.processes(None, None)
    if real:
        assert shell.call("processes")[0].keys() == real[0].keys()
