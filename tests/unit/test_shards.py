"""How live tests are dealt to workers: nothing shares a lab or a network by accident, and every count is taken over."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from livekit import floors, shards

from reberth_lab.site import Site, default_subnet

HERE = Path(__file__).parents[1]


@pytest.mark.parametrize("base", ["live", "ci0000", "ci9999", "lab", "averylongone"])
def test_no_two_labs_of_any_worker_share_a_name_or_a_network(base):
    every = [shards.name_of(f"gw{number}", base) + suffix for number in range(4) for suffix in shards.LABS]
    assert len({*every}) == len(every) == len({default_subnet(name) for name in every})
    assert all(Site.of(name).name == name for name in every)


def test_a_worker_takes_its_name_and_the_main_process_keeps_its_own(mocker):
    environ = {"REBERTH_LAB_NAME": "mine", "PYTEST_XDIST_WORKER": "gw1"}
    shards.take_name(environ)
    assert environ["REBERTH_LAB_NAME"] == shards.name_of("gw1", "mine")
    for worker in ({}, {"PYTEST_XDIST_WORKER": "master"}):
        environ = {"REBERTH_LAB_NAME": "mine", **worker}
        shards.take_name(environ)
        assert environ["REBERTH_LAB_NAME"] == "mine"


def test_files_that_share_a_lab_and_files_that_compare_times_stay_together():
    names = [
        *("live/test_lab.py::a", "live/test_lxd.py::a", "live/test_move_raw.py::a", "live/test_lab.py::b"),
        *(
            "live/test_lxd_near.py::a[x]",
            "live/test_postcopy.py::a",
            "vm/test_vm_auto.py::a",
            "live/android/test_node.py::a",
        ),
        *("live/test_of_tomorrow.py::a", "unit/test_x.py::a", "unit/test_x.py::b", "packaging/test_deb.py::a"),
    ]
    items = [SimpleNamespace(nodeid=f"tests/{name}") for name in names]
    shards.deal(items)
    groups = [shards.group_of(item.nodeid) for item in items]
    assert groups == [
        *("vm", "lxd", "lxd", "timing", "timing", "packaging", "test_lab", "test_lab", "test_node"),
        *("test_of_tomorrow", "tests/unit/test_x.py::a", "tests/unit/test_x.py::b"),
    ]


LIVE = """
import os, time
import pytest
@pytest.mark.parametrize("n", range(3))
def test_one(n):
    print(os.environ["PYTEST_XDIST_WORKER"], os.environ["REBERTH_LAB_NAME"])
    time.sleep(0.1)
    assert {good}
"""


@pytest.mark.parametrize(("good", "last", "code"), [("True", "9 passed", 0), ("n != 1", "3 failed, 6 passed", 1)])
def test_a_run_with_two_workers_keeps_groups_whole_and_fails_with_any_of_them(tmp_path, good, last, code):
    """With the pytest that is installed, whose scheduler this leans on."""
    shutil.copytree(HERE / "live/livekit", tmp_path / "tests/live/livekit")
    shutil.copy(HERE / "conftest.py", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = tests/live\naddopts = --import-mode=importlib\n")
    for name in ("test_lxd.py", "test_lxd_near.py", "test_lab.py"):
        (tmp_path / "tests/live" / name).write_text(LIVE.format(good=good))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("REBERTH_", "PYTEST_"))}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        "2",
        "--dist",
        "loadgroup",
        "--no-loadscope-reorder",
        "-v",
        "-rA",
        "tests",
    ]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert last in done.stdout.splitlines()[-1]
    ran = re.findall(r"^\[(gw\d)\].* tests/live/(test_\w+)\.py", done.stdout, re.M)
    of_lxd = {worker for worker, name in ran if "lxd" in name}
    assert len(ran) == 9 and len(of_lxd) == 1 and {worker for worker, name in ran if name == "test_lab"} != of_lxd


def test_every_file_that_is_named_is_there():
    stems = {path.stem for path in [*HERE.glob("live/**/test_*.py"), HERE / "contract/test_kit.py"]}
    assert {name.removesuffix(".py") for name in shards.GROUPS} <= stems
    assert {*shards.LONGEST} <= stems | {*shards.GROUPS.values(), "vm", "packaging"}


@pytest.mark.parametrize(
    ("words", "all_of_it"),
    [(["tests"], True), (["tests/live", "tests/vm"], True), (["."], True), (["tests/live/test_lab.py"], False)],
)
def test_only_a_whole_session_is_held_to_the_floors(words, all_of_it, monkeypatch):
    monkeypatch.chdir(HERE.parent)
    assert shards.whole(words, HERE) is all_of_it
    assert not shards.whole(["tests/unit"], HERE)


def test_the_counts_of_all_workers_are_added_and_too_few_fail_the_session(monkeypatch):
    monkeypatch.setattr(floors, "_handed", Counter())
    monkeypatch.setattr(floors, "_journals", 0)
    monkeypatch.setattr(floors, "COUNTS", SimpleNamespace(total=lambda: Counter(criu_dumps=1), __len__=lambda: 1))
    monkeypatch.setattr(floors, "judged", lambda config: True)
    monkeypatch.setattr(floors.counts, "floors", lambda: {"criu_dumps": 6, "runc_calls": 1})
    session = SimpleNamespace(config=SimpleNamespace(), exitstatus=0)
    worker = SimpleNamespace(workeroutput={floors.KEY: {"counts": {"criu_dumps": 3, "runc_calls": 1}, "journals": 2}})
    floors.pytest_testnodedown(worker, None)
    floors.pytest_testnodedown(SimpleNamespace(), "a worker that died hands nothing over")
    floors.pytest_sessionfinish(session)
    assert session.exitstatus == pytest.ExitCode.TESTS_FAILED
    assert floors.short_of_floors(floors.total()) == ["criu_dumps: 4, at least 6 expected"]
    session.exitstatus = 0
    floors.pytest_testnodedown(worker, None)
    floors.pytest_sessionfinish(session)
    assert session.exitstatus == 0


@pytest.mark.parametrize("path", sorted(HERE.glob("live/**/test_*.py")), ids=lambda path: path.stem)
def test_each_live_file_says_why_it_must_be_live(path):
    """What needs no node is cheaper elsewhere: a reason is written where the tests are."""
    doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert re.search(r"^Live because .+\.$", doc, re.M), f"{path.name}: no line 'Live because ...' in its docstring"
