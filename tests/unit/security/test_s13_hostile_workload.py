"""S13: what a workload calls itself steers no terminal and breaks no list, and a pid alone names nobody."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from reberth.cli.plan_text import check_lines
from reberth.node.system import procs
from reberth.report.explain import explain
from reberth.text import safe, safe_lines, table
from reberth_hooks import Check, Level
from reberth_hooks.criu.objects import some

RENAMED = "import sys; open('/proc/self/comm', 'w').write(sys.argv[1]); print(flush=True); sys.stdin.read()"
NASTY = ["\x1b[2J", "a\nb", "a\rb", "\x07", "\u202ex", "\x9b31m", "a\tb", "\0"]


@pytest.mark.parametrize("name", NASTY, ids=ascii)
def test_names_are_shown_escaped(name):
    check = Check("x", Level.FAIL, f"open: {name}", f"close {name}", name)
    shown = [safe(name), *table(("A",), [[name]])[1:], *check_lines(check), some([name])]
    for line in shown:
        assert line.isprintable(), ascii(line)
    assert "\x1b" not in "".join(safe_lines(f"log {name}"))


def test_plain_names_are_shown_as_they_are():
    assert safe("web-1 é") == "web-1 é" and some(["a", "b"]) == "a, b"


def test_a_hostile_name_in_a_log_stays_in_its_place():
    found = explain("Error (criu/files-reg.c:2353): Can't open file x\x1b[2J{why}/y on restore: No such file\n")
    assert found.rule == "missing-file" and safe(found.cause).isprintable() and "{why}" in found.cause


def test_a_command_name_with_brackets_and_newlines_is_read_whole():
    for comm in (") S 1 1", "a\nb", "(x) (y)"):
        words = [sys.executable, "-c", RENAMED, comm]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            found = procs.task(process.pid)
            process.stdin.close()
        assert (found.comm, found.ppid) == (comm, os.getpid())


def test_a_pid_of_another_start_is_another_process():
    me = procs.task(os.getpid())
    assert procs.alive(os.getpid(), me.start_ticks)
    assert not procs.alive(os.getpid(), me.start_ticks + 1)
