"""The lint of docstrings: each rule finds a planted sentence, and leaves alone what only looks like it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lint():
    spec = importlib.util.spec_from_file_location("english", ROOT / "tests/english.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("start", ["What it is.", "Whether it is.", "How it is.", "Where it is.", "Which it is."])
def test_a_function_whose_docstring_begins_a_clause_is_found(lint, start):
    assert [(line, rule) for line, rule, _ in lint.problems(f'def f():\n    """{start}"""\n')] == [
        (2, "begin with a verb")
    ]


def test_a_function_that_answers_is_found(lint):
    text = 'class A:\n    def f(self):\n        """Ask once.\n\n        Wait; answers the facts.\n        """\n'
    assert [(line, rule.split(",")[0]) for line, rule, _ in lint.problems(text)] == [(5, "a function returns")]


@pytest.mark.parametrize(
    "text",
    [
        'def f():\n    """Tell whether it is."""\n',
        'class A:\n    """What it is."""\n',
        'def f():\n    """Wait until the node answers."""\n',
        "def f():\n    return 1\n",
    ],
)
def test_what_is_plain_is_left_alone(lint, text):
    assert list(lint.problems(text)) == []


def test_the_tree_is_clean(lint, capsys):
    assert lint.main([]) == 0, capsys.readouterr().out
