"""`runc migrate` in real shells: ours for that word, the real runc for every other, scripts left alone."""

from __future__ import annotations

import shutil
import subprocess

import pytest

LINES = [
    ("runc mi", "runc migrate "),
    ("runc --root /run/runc mi", "runc --root /run/runc migrate "),
    ("runc migrate her", "runc migrate here "),
    ("runc migrate here node2", "runc migrate here node2:"),
    ("runc migrate node1:w", "runc migrate node1:web "),
    ("runc migrate here node2: --tcp-e", "runc migrate here node2: --tcp-established "),
    ("crun mi", "crun migrate "),
]


@pytest.mark.parametrize(("typed", "line"), LINES, ids=[typed for typed, _ in LINES])
def test_the_new_word_is_completed(extended, typed, line):
    assert extended.line(typed) == line


def test_the_words_of_runc_are_still_completed(extended):
    if extended.name == "bash":
        extended.run("_own() { COMPREPLY=($(compgen -W 'checkpoint create' -- \"$2\")); }; __reberth_native[runc]=_own")
    elif extended.name == "zsh":
        extended.run("_own() { compadd checkpoint create }; __reberth_native[runc]=_own")
    else:
        assert extended.line("runc checkpoint --le") == "runc checkpoint --leave-running "
    assert extended.line("runc chec") == "runc checkpoint "


def test_what_is_not_migrate_goes_to_the_real_program(extended):
    assert "runc itself: --root /x list -q a b\r\n" in extended.run("runc --root /x list -q 'a b'")
    assert "crun itself: state migrate" in extended.run("crun state migrate")
    assert "runc itself: --log migrate run x" in extended.run("runc --log migrate run x")


def test_migrate_is_ours(extended):
    said = extended.run("runc migrate web nowhere: --dry-run")
    assert "there is no node 'nowhere'" in said and "itself" not in said
    assert "runc --criu: not with migrate" in extended.run("runc --criu /x migrate web node2:")


def test_a_second_evaluation_changes_nothing(extended):
    again = "zsh" if extended.name == "zsh" else "bash"
    extended.run(f'eval "$(reberth shell-init {again})"')
    assert extended.line("runc mi") == "runc migrate "
    assert extended.line("runc chec") == "runc checkpoint "


def test_scripts_and_child_shells_have_the_real_runc(extended):
    assert "runc itself: migrate web" in extended.run("sh -c 'runc migrate web'")
    assert "runc itself: migrate web" in extended.run("bash -c 'runc migrate web'")


def test_functions_of_fish(env, needed):
    needed(shutil.which("fish") is not None, "fish")

    def fish(command):
        script = f"reberth shell-init fish | source; {command}"
        return subprocess.run(["fish", "-N", "-c", script], env=env, capture_output=True, text=True, timeout=60)

    assert fish("runc --log migrate list 'a b'").stdout == "runc itself: --log migrate list a b\n"
    done = fish("runc --debug migrate web nowhere:")
    assert "there is no node 'nowhere'" in done.stderr and done.stdout == ""
