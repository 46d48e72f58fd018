"""Every command and every option is in a man page, and the pages build without a warning."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reberth.complete.table import COMMANDS

ROOT = Path(__file__).parents[2]


def load():
    spec = importlib.util.spec_from_file_location("man_pages", ROOT / "packaging/man.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


man = load()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return {path.name: path.read_text("utf-8") for path in man.build(tmp_path_factory.mktemp("man"), [])}


def test_every_command_is_described_on_one_page():
    said = [path for page in man.pages() for path in man.documented(page)]
    assert sorted(said) == sorted(COMMANDS), "a command without `.. options::` in docs/man, or one too many"


def test_every_option_is_in_the_built_page(built):
    for page in man.pages():
        text = built[page.stem].replace("\\-", "-").replace("\\", "")
        for path in man.documented(page):
            section = text.partition(f"reberth {path}\n")[2].partition(".SS")[0] if path else text
            for option, (_, _, help_text) in COMMANDS[path][2].items():
                assert option in section, f"{page.name}: {path} {option}"
                assert help_text.split()[0].strip("`") in section


def test_every_key_and_exit_code_is_there(built):
    text = built["reberth.toml.5"].replace("\\", "")
    for key in re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/configuration.md").read_text("utf-8"), re.M):
        assert key in text or key.startswith("REBERTH_")
    for code in re.findall(r"^\| (\d+) \|", (ROOT / "docs/exit-codes.md").read_text("utf-8"), re.M):
        assert f"\n.B {code}\n" in built["reberth.1"] or f"\n{code}\n" in built["reberth.1"]


def test_the_page_of_each_name_points_to_all_others(built):
    names = {name.rpartition(".")[0] for name in built}
    for name, text in built.items():
        also = text.replace("\\", "").partition("SEE ALSO")[2]
        assert {other for other in names if f"fB{other}fP" in also} == names - {name.rpartition(".")[0]}


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_groff_has_nothing_to_complain_about(built, tmp_path):
    for name, text in built.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        argv = ["man", "--warnings", "-l", str(tmp_path / name)]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
        )
        assert done.stderr == ""
