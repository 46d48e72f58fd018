from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

import reberth_hooks
from reberth_hooks import CommandError, Exit, ReberthError

ERRORS = [getattr(reberth_hooks, name) for name in reberth_hooks.__all__ if name.endswith("Error")]
UNTOUCHED = {2, 10, 11, 12, 13, 14}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_text_of_every_error(world, kind):
    error = kind("it is so", hint="do that")
    error.tail = "one\ntwo\x1b[2J"
    world.answers = {"list_workloads": error}
    result = world.run("ls")
    assert result.exit_code == kind.exit_code and result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[:4] == ["reberth: it is so", "  hint: do that", "  | one", "  | two\\x1b[2J"]
    assert ("nothing was touched" in lines[-1]) == (kind.exit_code in UNTOUCHED)


@pytest.mark.parametrize("code", list(Exit))
def test_every_exit_code_by_an_error_and_its_json(world, code):
    world.answers = {"list_workloads": ReberthError("m\x07", hint="h", exit_code=code)}
    got, document = world.json("ls", "--json")
    assert got == code
    assert document == {
        "schema": 1,
        "error": {"code": "failed", "message": "m\x07", "hint": "h", "exit_code": int(code)},
    }
    assert "\x07" not in world.run("ls", "--json").stdout


def test_the_end_of_a_long_tail_is_shown(world):
    world.answers = {"list_workloads": CommandError("x", tail="\n".join(f"line {n}" for n in range(99)))}
    text = world.run("ls").stderr
    assert "| line 98" in text and "| line 79" in text and "line 78" not in text


def test_a_bug_leaves_a_private_traceback(world):
    world.answers = {"list_workloads": KeyError("\x1b]0;evil\x07")}
    result = world.run("ls")
    assert result.exit_code == 1 and "Traceback" not in result.stderr and "\x1b" not in result.stderr
    (file,) = (world.tmp / "state" / "reberth").glob("crash-*.log")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert str(file) in result.stderr and "KeyError" in file.read_text()
    code, document = world.json("ls", "--json")
    assert code == 1 and document["error"]["code"] == "bug"
    assert "Traceback" in world.run("--debug", "ls").stderr


def test_a_bug_where_nothing_can_be_written(world, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    world.answers = {"list_workloads": KeyError("x")}
    result = world.run("ls")
    assert result.exit_code == 1 and "--debug" in result.stderr


def test_interrupt_outside_a_move(world):
    world.answers = {"list_workloads": KeyboardInterrupt()}
    result = world.run("ls")
    assert result.exit_code == 130 and "interrupted" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["mvoe"],
        ["move"],
        ["move", "a"],
        ["move", "a", "b:", "c"],
        ["move", "a", "b:", "--no-such"],
        ["move", "a", "b:", "--mode", "teleport"],
        ["move", "a", "b:", "--timeout", "90"],
        ["history", "--limit", "0"],
        ["node"],
        ["plugin", "nothing"],
        ["report", "../x"],
        ["recover", "--forward", "--rollback"],
        ["abort", "-x"],
        [],
    ],
)
def test_wrong_words_exit_with_2(world, words):
    result = world.run(*words)
    assert result.exit_code == 2 and result.stdout == "" and "reberth" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_nearest_command_and_option_are_named(world):
    assert "did you mean `reberth move`?" in world.run("mvoe").stderr
    assert "--dry-run" in world.run("move", "a", "b:", "--dry-rnu").stderr
    assert "pre-copy" in world.run("move", "a", "b:", "--mode", "precopy").stderr


def test_wrong_words_in_json(world):
    code, document = world.json("move", "--json")
    assert code == 2 and document["error"]["code"] == "usage" and document["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["\x1b[2J"],
        ["--\x1b[2J"],
        ["move", "a", "b:", "\x1b[2J"],
        ["move", "a", "b:", "--\x1b[2J"],
        ["move", "a", "b:", "--mode", "\x1b[2J"],
        ["report", "\x1b[2J"],
        ["status", "\u202eabc"],
        ["node", "rm", "\x9b2J"],
        ["node", "enable", "local", "\x1b[2J"],
        ["node", "add", "x", "\x1b[2J"],
        ["plugin", "show", "\x1b[2J\udc80"],
    ],
)
def test_hostile_words_never_reach_the_terminal(world, words):
    result = world.run(*words)
    assert result.exit_code in (2, 14)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.stdout + result.stderr)


def test_hostile_names_in_data_never_reach_the_terminal(world, make):
    evil = "\x1b]0;x\x07\n\u202e"
    world.answers = {
        "list_workloads": [(evil, type(make.found)("runc", evil, evil, 1, 1, evil))],
        "warnings": [evil],
        "status": [{"id": evil, evil: evil, "list": [evil, {evil: 1}]}],
        "plan": make.plan(type(make.fail)(evil, make.fail.level, evil, evil, evil), name=evil),
    }
    for words in (["ls"], ["status"], ["move", "a", "b:"], ["ls", "--json"], ["status", "--json"]):
        result = world.run(*words)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.stdout + result.stderr), words


def test_documentation_of_exit_codes_is_complete():
    text = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.M))
    assert rows == {str(int(code)): code.name for code in Exit}


@pytest.mark.slow
def test_exit_codes_of_the_process(world):
    fake = "import reberth.cli.common as c, reberth_hooks as h\nfrom reberth.__main__ import main\n"
    fake += "def stop(*a, **k): raise {}\nc.make_host = stop\nmain()"
    for code in Exit:
        done = world.process("ls", "--json", code=fake.format(f"h.ReberthError('x', exit_code=h.Exit({int(code)}))"))
        assert done.returncode == code, done.stderr
        assert json.loads(done.stdout)["error"]["exit_code"] == code
    assert world.process("ls", code=fake.format("KeyboardInterrupt()")).returncode == 130
    done = world.process("ls", code=fake.format("RuntimeError('bug')"))
    assert done.returncode == 1 and "crash-" in done.stderr and "Traceback" not in done.stderr


def test_a_reader_that_went_away_changes_no_exit_code(world):
    code = "import os, sys\nr, w = os.pipe(); os.close(r); os.dup2(w, 1)\nfrom reberth.__main__ import main\nmain()"
    done = world.process("history", code=code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_without_unicode(world, make):
    folder = world.tmp / "state" / "reberth" / "runs" / make.moved.id
    folder.mkdir(parents=True)
    make.moved.save(folder / "report.json")
    done = world.process("report", make.moved.id, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "243 ms \\xb1 1 ms" in done.stdout
