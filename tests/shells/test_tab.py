"""The tab key in real shells: what stands on the command line after it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

LINES = [
    ("reberth mo", "reberth move "),
    ("reberth move no", "reberth move node"),
    ("reberth move node1", "reberth move node1:"),
    ("reberth move node1:w", "reberth move node1:web "),
    ("reberth move node1:criu/4", "reberth move node1:criu/4711 "),
    ('reberth move "node1:w', 'reberth move "node1:web" '),
    ("reberth move 'node1:w", "reberth move 'node1:web' "),
    ("reberth move node1:web no", "reberth move node1:web node2:"),
    ("reberth move node1:web node2:", "reberth move node1:web node2: "),
    ("reberth move her", "reberth move here "),
    ("reberth move --tcp-e", "reberth move --tcp-established "),
    ("reberth move --mode st", "reberth move --mode stop-and-copy "),
    ("reberth move --mode=st", "reberth move --mode=stop-and-copy "),
    ("reberth node sh", "reberth node show "),
    ("reberth node show node2", "reberth node show node2 "),
    ("reberth plugin show crun-is-not-th", "reberth plugin show crun-is-not-th"),
    ("reberth move node1:c1 no", "reberth move node1:c1 node2:"),
    ("X=1 reberth move node1:w", "X=1 reberth move node1:web "),
    ("true; reberth move node1:w", "true; reberth move node1:web "),
    ("reberth restore /us", "reberth restore /usr/"),
    ("reberth move node1:lx", "reberth move node1:lx"),  # lxd is not enabled on that node
]


@pytest.mark.parametrize(("typed", "line"), LINES, ids=[typed for typed, _ in LINES])
def test_the_line_after_the_tab_key(shell, typed, line):
    assert shell.line(typed) == line


def test_two_tabs_list_what_is_possible(shell):
    line, printed = shell.press("reberth move --t", tabs=2)
    assert line.startswith("reberth move --t")
    for option in ("--tcp-close", "--tcp-established", "--timeout", "--transport"):
        assert option in printed


def test_a_program_of_the_folder_is_not_started_by_the_tab_key(shell, place):
    trap = place / "trap"
    trap.mkdir(exist_ok=True)
    (trap / "reberth").write_text(f"#!/bin/sh\ntouch {trap}/sprung\n")
    (trap / "reberth").chmod(0o755)
    assert shell.line(f"{trap}/reberth mo") == f"{trap}/reberth move "
    assert not (trap / "sprung").exists()


FISH = [
    ("reberth mo", {"move"}),
    ("reberth move no", {"node1:", "node2:"}),
    ("reberth move node1:w", {"node1:web"}),
    ("reberth move 'node1:w", {"node1:web"}),
    ("reberth move node1:web no", {"node2:"}),
    ("reberth move --mode st", {"stop-and-copy"}),
    ("reberth restore /us", {"/usr/"}),
    ("runc mi", {"migrate"}),
    ("runc --root /run/runc mi", {"migrate"}),
    ("runc migrate he", {"here"}),
    ("runc migrate here no", {"node1:", "node2:"}),
    ("runc migrate here node1: --tcp-c", {"--tcp-close"}),
    ("runc chec", {"checkpoint"}),
]


@pytest.mark.parametrize(("typed", "words"), FISH, ids=[typed for typed, _ in FISH])
def test_candidates_of_fish(env, needed, typed, words):
    needed(shutil.which("fish") is not None, "fish")
    script = "reberth shell-init fish | source; complete -c runc -f -a 'checkpoint create'; complete -C $argv[1]"
    done = subprocess.run(["fish", "-N", "-c", script, typed], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert {line.partition("\t")[0] for line in done.stdout.splitlines()} == words


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("reberth mo", "reberth move "),
        ("reberth move node1:w", "reberth move node1:web "),
        ("reberth move node1:web node2", "reberth move node1:web node2:"),
        ("reberth move 'node1:w", "reberth move 'node1:web' "),
        ("runc mi", "runc migrate "),
        ("runc migrate her", "runc migrate here "),
    ],
)
def test_the_line_of_fish_after_the_tab_key(fish, typed, line):
    assert fish.line(typed) == line


def test_the_files_that_are_kept_are_what_the_command_prints(env):
    top = Path(__file__).parents[2] / "completions"
    for shell, name in {"bash": "reberth.bash", "zsh": "_reberth", "fish": "reberth.fish"}.items():
        done = subprocess.run(["reberth", "completion", shell], env=env, capture_output=True, text=True, timeout=60)
        assert done.stdout == (top / name).read_text("utf-8"), "run: make completions"


def test_a_folder_with_a_blank_is_quoted(shell, place):
    (place / "two words").mkdir(exist_ok=True)
    assert shell.line(f"reberth restore {place}/tw") == f"reberth restore {place}/two\\ words/"
    assert shell.line(f"reberth restore '{place}/tw").startswith(f"reberth restore '{place}/two words")
    assert shell.line(f"reberth checkpoint node1:web {place}/two\\ words/x") == (
        f"reberth checkpoint node1:web {place}/two\\ words/x"
    )
