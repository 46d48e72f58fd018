"""Real logs of real failures are explained with the right cause; an unknown one is shown as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reberth.report.explain import Explanation, error_lines, explain
from reberth.report.explain_rules import RULES

LOGS = sorted((Path(__file__).parents[1] / "fixtures" / "logs").glob("*.log"))
HEAD = re.compile(r"# command: (?P<command>.+) \| (?P<tool>.+) \| (?P<date>\d{4}-\d\d-\d\d) \| cause: (?P<cause>\S+)")


def recorded(path: Path) -> tuple[str, str]:
    """The cause that the header says, and the log below it."""
    head, _, text = path.read_text(encoding="utf-8", errors="backslashreplace").partition("\n")
    found = HEAD.fullmatch(head)
    assert found, f"{path.name}: the first line must say command, tool, date and cause"
    return found["cause"], text


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_recorded_log_is_explained(path):
    cause, text = recorded(path)
    found = explain(text)
    assert found.rule == ("" if cause == "unknown" else cause)
    assert found.first_error and found.first_error in text
    assert "RLIMIT_NOFILE" not in found.first_error
    if found.rule:
        assert found.cause and found.remedy and "{" not in found.cause + found.remedy


def test_there_are_forty_of_them():
    assert len(LOGS) >= 40


def test_an_unknown_message_is_shown_raw():
    text = "(00.000100) all is well\n(00.000200) Error (criu/new.c:1): frob: the widget is gone\n"
    assert explain(text + "(00.0003) Error (criu/cr-dump.c:1): Dumping FAILED.\n") == Explanation(
        "Error (criu/new.c:1): frob: the widget is gone"
    )


@pytest.mark.parametrize("text", ["", "(00.000100) Dumping finished successfully\n", "\0\xff\n"])
def test_a_log_without_errors(text):
    assert explain(text) == Explanation()


def test_noise_and_aftermath_are_never_the_reason():
    text = (
        "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"
        "Error (criu/cr-dump.c:1975): Dumping FAILED.\n"
        "Error (criu/cr-dump.c:389): the reason\n"
    )
    assert [line[-10:] for line in error_lines(text)] == ["the reason", "ng FAILED."]


def test_names_of_the_workload_are_data():
    text = "Error (criu/files-reg.c:2175): File srv/{pid}{0}\\g<1> has bad size 11 (expect 6)\n"
    assert explain(text).cause == "/srv/{pid}{0}\\g<1> has 11 bytes on the target and 6 on the source"


def test_a_process_is_named_where_the_log_names_one():
    assert (
        explain("Error (criu/x.c:1): y\nError (criu/cr-dump.c:1545): Dump files (pid: 4711) failed with -1\n").pid
        == 4711
    )
    assert explain("  7076: Error (criu/x.c:1): y\n").pid == 7076
    assert explain("Error (criu/namespaces.c:460): Can't dump nested user namespace for 3019\n").pid == 3019


def test_rules_have_ids_of_their_own_and_patterns_that_compile():
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        names = set(re.compile(rule.pattern).groupindex)
        assert set(re.findall(r"\{(\w+)\}", rule.cause + rule.remedy)) <= names, rule.id


def test_a_hostile_log_ends_soon():
    explain("Error " + "a" * 200_000 + "\n" + "Error tty: " * 20_000)
