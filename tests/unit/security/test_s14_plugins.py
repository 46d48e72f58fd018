"""S14: a plugin comes from an installed distribution and never from where the user stands; one that breaks is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reberth.plugin.catalog import Catalog
from reberth_hooks import PluginError

EVIL = "import pathlib\npathlib.Path({mark!r}).write_text('ran')\n"


COMMAND, MODULE = (str(Path(sys.executable).with_name("reberth")),), (sys.executable, "-m", "reberth")
NAMES = ("reberth_criu", "reberth_hooks", "pluggy", "typer", "json", "evil")
# What `python -m reberth` names is looked for where the user stands, by Python itself: that one is the user's word.
TRIALS = [*((COMMAND, name) for name in (*NAMES, "reberth")), *((MODULE, name) for name in NAMES)]


@pytest.mark.parametrize(
    ("words", "name"), TRIALS, ids=lambda value: value if isinstance(value, str) else str(len(value))
)
def test_a_module_in_the_working_directory_is_not_imported(tmp_path, words, name):
    mark = tmp_path / "mark"
    (tmp_path / f"{name}.py").write_text(EVIL.format(mark=str(mark)))
    folder = tmp_path / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[reberth]\nevil = {name}\n")
    program = [*words, "plugin", "ls"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "criu" in done.stdout and "evil" not in done.stdout
    assert not mark.exists()


def test_the_same_module_on_the_path_of_python_is(tmp_path):
    """The twin: what would have run is really something that runs."""
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(EVIL.format(mark=str(mark)))
    subprocess.run([sys.executable, "-c", "import evil"], cwd=tmp_path, timeout=60, check=True)
    assert mark.exists()


def test_a_plugin_that_is_not_there_is_named():
    with pytest.raises(PluginError) as caught:
        Catalog(environ={"REBERTH_PLUGINS": ""}).get("evil")
    assert "evil" in caught.value.message
