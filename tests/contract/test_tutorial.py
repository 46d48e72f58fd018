"""The tutorial's code is the finished plugin's, to the letter, and that keeps the contract."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/tutorial/reberth-crun"
PAGE = (ROOT / "docs/tutorial-backend.md").read_text("utf-8")
FILES = sorted(path.name for path in FOLDER.iterdir() if path.is_file())


def lines(text: str) -> list[str]:
    """Blank lines are where a page's blocks may be cut."""
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", FILES)
def test_the_blocks_of_the_page_are_the_file(name):
    blocks = re.findall(rf"^<!-- {re.escape(name)} -->\n```\w+\n(.*?)^```$", PAGE, re.M | re.S)
    assert blocks
    assert lines("".join(blocks)) == lines((FOLDER / name).read_text("utf-8"))


def test_every_block_of_code_belongs_to_a_file():
    marked = len(re.findall(r"^<!-- [\w.]+ -->\n```", PAGE, re.M))
    assert marked == len(re.findall(r"^```(?:python|toml)$", PAGE, re.M))


@pytest.mark.slow
def test_it_keeps_the_contract(tmp_path):
    """As its author runs it; its entry point is a folder of metadata here, since nothing is installed for it."""
    metadata = tmp_path / "reberth_crun-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: reberth-crun\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[reberth]\ncrun = reberth_crun:backend\n")
    path = ":".join([str(tmp_path), str(FOLDER), *filter(None, sys.path)])
    argv = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*argv, "-c", "/dev/null", str(FOLDER / "test_reberth_crun.py")],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^(\d+) passed", done.stdout, re.M)
    assert passed and f"\n{passed[1]} passed\n" in PAGE, done.stdout


def test_a_backend_for_a_runtime_is_short():
    """What a stranger has to write, comments and blank lines included."""
    assert len((FOLDER / "reberth_crun.py").read_text("utf-8").splitlines()) <= 60
