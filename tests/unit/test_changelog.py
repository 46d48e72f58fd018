"""News fragments are named as CONTRIBUTING.md says, so that a release can gather them without reading minds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KINDS = ("feature", "fix", "change", "removal", "security", "docs")
NAME = re.compile(rf"[0-9]+(\.[a-z0-9-]+)?\.({'|'.join(KINDS)})\.md")
NEWS = sorted((ROOT / "docs/news").iterdir())


@pytest.mark.parametrize("path", NEWS, ids=lambda path: path.name)
def test_a_fragment_is_one_sentence_of_a_known_kind(path):
    assert NAME.fullmatch(path.name)
    text = path.read_text("utf-8")
    assert text.endswith(".\n") and text.count("\n") == 1
    assert text[0].isupper() or text[0] == "`"
    assert len(text) <= 240


@pytest.mark.parametrize("name", ["2.md", "x.fix.md", "2.bug.md", "2.fix.txt", "2.Lab.fix.md", "2.a.b.fix.md"])
def test_other_names_are_no_fragments(name):
    assert not NAME.fullmatch(name)


def test_the_kinds_are_those_of_the_contributors_page():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("KIND is")[2].partition(".")[0]
    assert tuple(re.findall(r"`(\w+)`", text)) == KINDS


def test_the_changelog_has_the_present_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    version = project["version"].partition(".dev")[0]
    heads = re.findall(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert heads[0][0] == version
    assert (heads[0][1] == "not released") is (".dev" in project["version"])
