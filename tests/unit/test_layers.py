"""Arrows point one way: plugins -> reberth_hooks <- core; one module starts processes; the host stays thin."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE, NODE = ROOT / "core" / "reberth", ROOT / "core" / "reberth" / "node"
# A folder that grows past this holds two subjects: split it, or say in the commit why it may grow.
FOLDER_LINES = {
    ".": 500,
    "archive": 600,
    "commands": 1200,
    "config": 700,
    "connect": 1200,
    "plan": 1100,
    "plugin": 450,
    "report": 1000,
    "run": 2200,
}
FILE_LINES = 400
REASON = "Reason for its length"
PROCESSES = {"sh", "subprocess", "pty", "multiprocessing"}


def sources(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def imported(text: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import in a source, at the top, in a function, or by import_module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            yield from ((node.lineno, arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def breaches(path: Path, text: str) -> list[str]:
    """What a file imports although its layer forbids it."""
    found = []
    for line, name in imported(text):
        top = name.partition(".")[0]
        if forbidden(path, top, name):
            found.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return found


def forbidden(path: Path, top: str, name: str) -> bool:
    if top in ("core", "hooks", "plugins", "tests"):
        return True
    if path.is_relative_to(NODE):
        return top not in sys.stdlib_module_names and not f"{name}.".startswith("reberth.node.")
    if path.is_relative_to(CORE):
        plugin = top.startswith("reberth_") and top != "reberth_hooks"
        started_here = path == CORE / "connect/process.py" or path.is_relative_to(CORE / "testing")  # it plays nodes
        return plugin or (top in PROCESSES and not started_here)
    if path.is_relative_to(ROOT / "hooks"):
        return top.startswith("reberth") and top != "reberth_hooks"
    package = path.relative_to(ROOT / "plugins").parts[0]
    return top.startswith("reberth") and top not in ("reberth_hooks", package)


@pytest.mark.slow
def test_every_import_keeps_its_layer():
    files = sources(ROOT / "core", ROOT / "hooks", ROOT / "plugins")
    assert len(files) > 20
    assert [breach for path in files for breach in breaches(path, path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("path", "text", "caught"),
    [
        ("plugins/reberth_x/a.py", "import reberth", True),
        ("plugins/reberth_x/a.py", "def f():\n    from reberth.config.config import load", True),
        ("plugins/reberth_x/a.py", "import importlib\nimportlib.import_module('reberth.plugin.stage')", True),
        ("plugins/reberth_x/a.py", "from reberth_runc import find", True),
        ("plugins/reberth_x/a.py", "from reberth_x import b\nfrom reberth_hooks import Node\nimport subprocess", False),
        ("hooks/reberth_hooks/a.py", "from reberth.plugin import stage", True),
        ("hooks/reberth_hooks/a.py", "import reberth_runc", True),
        ("hooks/reberth_hooks/a.py", "from reberth_hooks import types", False),
        ("core/reberth/a.py", "import reberth_runc", True),
        ("core/reberth/a.py", "import subprocess", True),
        ("core/reberth/cli/a.py", "def f():\n    import sh", True),
        ("core/reberth/connect/process.py", "import sh, subprocess", False),
        (
            "core/reberth/a.py",
            "from reberth_hooks import Node\nfrom reberth.node.operations import table as ops",
            False,
        ),
        ("core/reberth/node/a.py", "from reberth.config import config", True),
        ("core/reberth/node/a.py", "import pluggy", True),
        ("core/reberth/node/a.py", "from reberth_hooks import Node", True),
        ("core/reberth/node/a.py", "import subprocess\nfrom reberth.node.runs import run", False),
        ("core/reberth/a.py", "from core.reberth import stage", True),
    ],
)
def test_the_guard_itself_catches_a_planted_import(path, text, caught):
    assert bool(breaches(ROOT / path, text)) is caught


def test_the_host_stays_thin():
    """Each folder of the host has one subject; the helper, the commands, completion and the kit are not counted."""
    found = {f: sum(len(p.read_text("utf-8").splitlines()) for p in (CORE / f).glob("*.py")) for f in FOLDER_LINES}
    assert {f: lines for f, lines in found.items() if lines > FOLDER_LINES[f]} == {}
    folders = {p.parent.name for p in CORE.glob("*/__init__.py")}
    assert folders - {"cli", "complete", "node", "testing"} == set(FOLDER_LINES) - {"."}


def test_no_file_is_long_without_a_reason():
    files = sources(*(ROOT / folder for folder in ("core", "hooks", "plugins", "tests")))
    long = [path for path in files if len(path.read_text("utf-8").splitlines()) > FILE_LINES]
    assert [path for path in long if REASON not in (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")] == []
