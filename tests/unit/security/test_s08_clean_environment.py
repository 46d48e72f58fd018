"""S8: criu and runc run with nothing of the login's environment, and criu without anybody's default configuration."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest

from reberth.node.system import spawn

ROOT = Path(__file__).parents[3]
PLANTED = {
    "CRIU_CONFIG_FILE": "/tmp/evil.conf",
    "CRIU_LIBS_DIR": "/tmp",
    "CRIU_FAULT": "1",
    "LD_PRELOAD": "/tmp/evil.so",
    "LD_LIBRARY_PATH": "/tmp",
    "PYTHONPATH": "/tmp",
    "GIT_DIR": "/tmp",
    "BASH_ENV": "/tmp/evil.sh",
    "PATH": "/tmp/evil",
}


@pytest.mark.parametrize("name", PLANTED)
def test_no_variable_reaches_a_tool(name, monkeypatch):
    monkeypatch.setenv(name, PLANTED[name])
    out = spawn.run(["env"])["out"]
    assert PLANTED[name] not in out


def test_a_variable_that_is_meant_does_reach_it():
    assert "CRIU_CONFIG_FILE=/run/x\n" in spawn.run(["env"], env={"CRIU_CONFIG_FILE": "/run/x"})["out"]


def test_programs_are_found_on_a_fixed_path(tmp_path, monkeypatch):
    evil = tmp_path / "env"
    evil.write_text("#!/bin/sh\n")
    evil.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert spawn.resolve(["env"])[0] not in (str(evil), "env")
    assert os.path.isabs(spawn.resolve(["env"])[0])


def bare(argvs: list[list[str]]) -> list[list[str]]:
    """Calls of criu that would read a default configuration; --version reads none."""
    return [a for a in argvs if a[:1] == ["criu"] and "--version" not in a and "--no-default-config" not in a]


def in_goldens() -> list[list[str]]:
    def walk(value):
        if isinstance(value, dict):
            yield from ([value["argv"]] if isinstance(value.get("argv"), list) else [])
            value = list(value.values())
        for part in value if isinstance(value, list) else []:
            yield from walk(part)

    files = (ROOT / "tests/goldens").glob("*.json")
    return [argv for path in files for argv in walk(json.loads(path.read_text("utf-8")))]


def in_code() -> list[list[str]]:
    """Lists in the code that begin with "criu": their constant words; names stand for words that are added."""
    found = []
    for folder in ("core/reberth/node", "hooks", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                words = [getattr(e, "value", None) for e in node.elts] if isinstance(node, ast.List) else []
                if words[:1] == ["criu"]:
                    starred = [ast.unparse(e) for e in node.elts if isinstance(e, ast.Starred)]
                    found.append([str(w) for w in words] + (["--no-default-config"] if "*COMMON" in starred else []))
    return found


def test_criu_never_reads_a_default_configuration():
    assert len(in_goldens()) > 10 and len(in_code()) > 2
    assert bare(in_goldens()) == bare(in_code()) == []


def test_a_call_that_would_is_seen():
    assert bare([["criu", "dump"], ["criu", "--version"], ["runc", "list"]]) == [["criu", "dump"]]
