"""Who starts a workload again when it ends, and when --unit may keep it from that."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reberth.plan.preflight import unit_checks
from reberth_hooks import Level, Options, Survey
from reberth_hooks.criu.systemd import hold_unit, supervisor_checks, supervisor_of, unit_details

PLAIN = {"cgroup": "/sys/fs/cgroup/user.slice/session-3.scope", "parents": []}
CALM = {
    "Id": "web.service",
    "MainPID": "7",
    "ActiveState": "active",
    "Restart": "no",
    "RestartForceExitStatus": "",
    "NeedDaemonReload": "no",
    "WatchdogUSec": "0",
    "Job": "",
    "UnitFileState": "static",
}
UNIT = {"name": "web.service", "properties": CALM, "main": True, "strangers": [], "error": ""}
WITH = Options(unit=True)


def under(unit=None, **properties):
    return {**PLAIN, "parents": ["systemd"], "unit": {**UNIT, **(unit or {}), "properties": {**CALM, **properties}}}


def levels(checks):
    return [(check.id, check.level.value) for check in checks]


@pytest.mark.parametrize(
    ("change", "who"),
    [
        ({}, ("", "")),
        ({"unit": {}}, ("", "")),
        ({"unit": UNIT}, ("systemd", "web.service")),
        ({"parents": ["containerd-shim", "systemd"]}, ("parent", "containerd-shim")),
        ({"parents": ["sh", "supervisord"]}, ("parent", "supervisord")),
        (
            {"cgroup": "/sys/fs/cgroup/user.slice/user-7.slice/user@7.service/app.slice/x.service"},
            ("user", "x.service"),
        ),
    ],
)
def test_supervisors_are_recognised(change, who):
    assert supervisor_of({**PLAIN, **change}) == who


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (under(), "warn"),
        (under(Restart="always"), "fail"),
        (under(Restart="on-failure"), "fail"),
        (under(RestartForceExitStatus="KILL"), "fail"),
        (under(TriggeredBy="web.socket"), "fail"),
        (under(UpheldBy="all.target"), "fail"),
        (under(BusName="org.example"), "fail"),
        (under(OnFailure="again.service"), "fail"),
        (under({"error": "systemctl is not installed"}), "fail"),
    ],
)
def test_a_unit_that_starts_again_is_refused_without_the_option(facts, level):
    assert levels(supervisor_checks(facts, Options(), "a")) == [("supervisor", level)]


def test_the_remedy_is_the_option_only_where_it_helps():
    (check,) = supervisor_checks(under(Restart="always"), Options(), "a")
    assert "Restart=always" in check.reason and "--unit" in check.remedy
    (check,) = supervisor_checks(under(Restart="always", TriggeredBy="web.socket"), Options(), "a")
    assert "TriggeredBy=web.socket" in check.reason and "--unit" not in check.remedy


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (under({"error": "systemctl is not installed"}), "systemctl is not installed"),
        (under({"main": False}), "main process 7 is not of the workload"),
        (under({"strangers": [8, 9]}), "8, 9"),
        (under(TriggeredBy="web.socket"), "TriggeredBy=web.socket"),
        (under(BoundBy="other.service"), "BoundBy=other.service"),
        (under(WatchdogUSec="30s"), "WatchdogUSec=30s"),
        (under(NeedDaemonReload="yes"), "NeedDaemonReload=yes"),
        (under(ActiveState="activating"), "it is activating"),
        (under(Job="12"), "Job=12"),
        (PLAIN, "no systemd unit"),
    ],
)
def test_what_the_option_cannot_keep_is_refused(facts, word):
    found = [check for check in supervisor_checks(facts, WITH, "a") if check.level is Level.FAIL]
    assert [check.id for check in found] == ["unit"]
    assert word in found[0].reason


def test_with_the_option_the_plan_says_that_nobody_supervises_the_copy():
    facts = under(Restart="always", UnitFileState="enabled", ExecStopPost="{ path=/bin/true }")
    found = list(supervisor_checks(facts, WITH, "a"))
    assert levels(found) == [("supervisor", "warn"), ("unit-enabled", "warn"), ("unit-stop-post", "warn")]
    assert "nobody supervises the copy" in found[0].reason
    assert "systemctl disable web.service" in found[1].remedy


def test_a_parent_that_lives_may_be_one_that_restarts():
    """No list of names can know every loop in a shell: who knows better says so."""
    assert levels(supervisor_checks({**PLAIN, "parents": ["sh", "sshd"]}, Options(), "a")) == [("parent", "fail")]
    assert list(supervisor_checks({**PLAIN, "parents": ["systemd"]}, Options(), "a")) == []
    assert list(supervisor_checks(PLAIN, Options(), "a")) == []


def test_a_hostile_name_is_shown_and_nothing_more():
    (check,) = supervisor_checks(under({"name": "\x1b[31m.service"}, Restart="always"), Options(), "a")
    assert "\x1b" not in check.reason


@pytest.mark.parametrize(
    ("facts", "options", "details"),
    [
        (under(), Options(), {}),
        (under(), WITH, {"unit": "web.service"}),
        (PLAIN, WITH, {"unit": ""}),
    ],
)
def test_the_plan_keeps_the_unit(facts, options, details):
    assert unit_details(facts, options) == details


def test_it_is_held_only_when_it_is_in_the_plan():
    asked = []
    source = SimpleNamespace(call=lambda op, **words: asked.append((op, words)))
    for details in ({}, {"unit": ""}, {"unit": "web.service"}):
        hold_unit(SimpleNamespace(source=source, plan=SimpleNamespace(details=details)), 7)
    assert asked == [("unit_hold", {"name": "web.service", "pid": 7})]


def test_a_backend_that_does_not_know_the_option_is_not_asked_to_ignore_it():
    assert levels(unit_checks(WITH, Survey((), {}))) == [("unit", "fail")]
    assert unit_checks(WITH, Survey((), {"unit": ""})) == ()
    assert unit_checks(Options(), Survey((), {})) == ()
