"""`reberth plugin new` writes a plugin that installs, loads and passes its own test; the observer's page is true."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from reberth.commands.new_plugin import ROLES, write_plugin
from reberth.plugin.catalog import Catalog
from reberth_hooks import Event, Role, UsageError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("role", ROLES)
def test_each_skeleton_passes_its_own_test(tmp_path, role):
    folder = tmp_path / "a b"
    names = [path.name for path in write_plugin("my-own", role, folder)]
    assert names == ["pyproject.toml", "reberth_my_own.py", "test_reberth_my_own.py"]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["reberth"]["my-own"].partition(":")[0] == "reberth_my_own"
    path = ":".join([str(folder), *filter(None, sys.path)])
    argv = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    done = subprocess.run(
        [*argv, "-c", "/dev/null", str(folder)],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "role", "words"),
    [
        ("My Own", "observer", "no name for a plugin"),
        ("../own", "observer", "no name for a plugin"),
        ("own", "transport", "no skeleton"),
    ],
)
def test_words_that_cannot_be_are_refused(tmp_path, name, role, words):
    with pytest.raises(UsageError, match=words):
        write_plugin(name, role, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_is_left_alone(tmp_path):
    (tmp_path / "pyproject.toml").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        write_plugin("own", "observer", tmp_path)
    assert (tmp_path / "pyproject.toml").read_text() == "mine"


def test_the_observer_of_the_page_is_short_and_works(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs/tutorial-observer.md").read_text("utf-8")
    code = re.search(r"^<!-- observer -->\n```python\n(.*?)^```$", page, re.M | re.S)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (tmp_path / "fx_chatty.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("fx_chatty")
    catalog = Catalog({"chatty": module}, {"REBERTH_PLUGINS": ""})
    assert catalog.get("chatty").declaration.roles == {Role.OBSERVER}
    catalog.call_one("chatty", "reberth_event", event=Event("phase", "restore", "it is built"))
    assert capsys.readouterr().out == "phase restore it is built\n"
