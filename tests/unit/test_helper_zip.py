"""The helper's zip, as a node gets it: each module is imported first and alone, by the oldest Python found here."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from reberth.connect.boot import program

OLDEST = (3, 9)
# One fork for each module: it is the first that this process imports of the helper.
IMPORT_EACH = """
import os, sys
place, names = sys.argv[1], sys.argv[2:]
sys.path.insert(0, place)
failed = []
for name in names:
    child = os.fork()
    if child == 0:
        try:
            __import__(name)
        except BaseException as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print("version", *sys.version_info[:2], "imported", len(names) - len(failed), "failed", len(failed))
"""


@pytest.fixture(scope="module")
def archive() -> zipfile.ZipFile:
    """The zip without the ten digits that precede it."""
    return zipfile.ZipFile(BytesIO(program()[10:]))


def modules(archive: zipfile.ZipFile) -> dict[str, str]:
    """Dotted name -> source of each module in the zip."""
    names = (name for name in archive.namelist() if name.endswith(".py"))
    return {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): archive.read(name).decode()
        for name in names
    }


def oldest_python() -> str:
    """The oldest Python from 3.9 on that starts here; this one, if there is no older."""
    for minor in range(OLDEST[1], sys.version_info[1]):
        for place in (
            shutil.which(f"python3.{minor}"),
            *sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")),
        ):
            if place and subprocess.run([place, "-c", ""], capture_output=True).returncode == 0:
                return str(place)
    return sys.executable


def test_each_module_is_imported_first_and_alone(archive, tmp_path):
    archive.extractall(tmp_path)  # compiled once, not in each fork
    names = sorted(modules(archive))
    assert len(names) > 60
    argv = [oldest_python(), "-I", "-c", IMPORT_EACH, str(tmp_path), *names]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, env={"PATH": os.defpath})
    assert f"imported {len(names)} failed 0" in done.stdout, done.stdout + done.stderr


def test_all_are_imported_out_of_the_zip(archive, tmp_path):
    (tmp_path / "helper.zip").write_bytes(program()[10:])
    code = "import sys; sys.path.insert(0, sys.argv[1]); [__import__(name) for name in sys.argv[2:]]"
    argv = [oldest_python(), "-I", "-c", code, str(tmp_path / "helper.zip"), *sorted(modules(archive))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, env={"PATH": os.defpath})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_that_cannot_be_imported_is_seen(tmp_path):
    """The twin: a planted fault is named."""
    (tmp_path / "bad.py").write_text("import a_module_that_is_not_there")
    argv = [oldest_python(), "-I", "-c", IMPORT_EACH, str(tmp_path), "bad"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert "failed 1" in done.stdout and "a_module_that_is_not_there" in done.stdout


def test_the_grammar_is_that_of_python_3_9(archive):
    """Also where no old Python is installed."""
    for name, source in modules(archive).items():
        ast.parse(source, filename=name, feature_version=OLDEST)
    with pytest.raises(SyntaxError):
        ast.parse("match 1:\n    case 1: pass", feature_version=OLDEST)
