"""docs/checks.md has a row for every check that the code makes, and none for others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKERS = {"Check", "Rule", "_check", "_fail", "_no", "_say"}
LEVELS = ("fail", "warn", "ok")


def made() -> Iterator[str]:
    """The first word of every call that makes a check; a plugin's own part of it is written PLUGIN."""
    folders = ("core/reberth", "hooks", "plugins")
    for path in sorted(found for folder in folders for found in (ROOT / folder).rglob("*.py")):
        if {"testing", "node"} & set(path.parts) or path.name.startswith("explain"):
            continue
        if path.parts[-2:] == ("reberth_android", "status.py"):  # of `reberth android status`: docs/how-to/android.md
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in MAKERS and node.args:
                yield from words(node.args[0])
            if isinstance(node, ast.Dict):  # a probe's own checks
                keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
                if {"id", "level", "reason"} <= set(keys):
                    yield from words(node.values[keys.index("id")])


def words(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "PLUGIN" for part in node.values)


def rows() -> dict[str, list[str]]:
    """Rows of the tables of the page: id -> its cells."""
    text = (ROOT / "docs/checks.md").read_text("utf-8")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            name = cells[0].strip("`")
            assert name not in found, f"{name} has two rows"
            found[name] = cells
    return found


def test_every_check_has_a_row_and_every_row_a_check():
    # Made from a list: kinds of plugins, what two machines are compared by, and `kind` of the node's loop.
    listed = {"backends", "transports", "arch", "page-bytes"}
    code = set(made()) | listed
    assert {"missing": sorted(code - rows().keys()), "stale": sorted(rows().keys() - code)} == {
        "missing": [],
        "stale": [],
    }


def test_ids_can_be_typed_and_rows_are_whole():
    for name, cells in rows().items():
        assert re.fullmatch(r"(PLUGIN-)?[a-z][a-z0-9-]*", name)
        assert cells[1] in LEVELS and all(cells), name


def test_every_state_of_the_live_test_names_a_check_of_the_page():
    from doubtful import files, sockets, tasks  # noqa: F401
    from doubtful.base import STATES

    assert {check for state in STATES.values() for check in (*state.checks, *state.warns)} <= rows().keys()
