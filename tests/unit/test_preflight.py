"""The checks that every backend needs, and how a failing one is skipped."""

from __future__ import annotations

import pytest

from reberth.plan import preflight
from reberth_hooks import Level, Node, UsageError


def levels(plan) -> dict[tuple[str, str], Level]:
    return {(check.id, check.node): check.level for check in plan.checks}


def test_two_equal_machines_pass_every_check(world):
    assert set(levels(world.plan()).values()) == {Level.OK}


@pytest.mark.parametrize(
    ("facts", "id", "node", "level", "text"),
    [
        ({"arch": "aarch64"}, "arch", "", Level.FAIL, "architecture: x86_64 on local, aarch64 on pi2"),
        ({"page_bytes": 16384}, "page-bytes", "", Level.FAIL, "page size: 4096 on local, 16384 on pi2"),
        ({"uid": 1000}, "root", "pi2", Level.FAIL, "user id 1000"),
        ({"direct_lacks": "openssl(1)"}, "tls", "pi2", Level.WARN, "openssl(1) is missing"),
        ({"cgroup2": ""}, "cgroup2", "pi2", Level.FAIL, "cgroup v2: not mounted"),
        ({"python": "3.8.10"}, "python", "pi2", Level.FAIL, "Python 3.8.10"),
        ({"python": "None"}, "python", "pi2", Level.FAIL, "Python None"),
        ({"clock_realtime_ns": 7 * 10**9}, "clock", "", Level.WARN, "+7.0"),
        ({"clock_realtime_ns": -7 * 10**9}, "clock", "", Level.WARN, "-7.0"),
        ({"clock_realtime_ns": 4 * 10**9}, "clock", "", Level.OK, "+4.0"),
        ({"clock_boottime_ns": -3600 * 10**9, "time_ns": ""}, "uptime", "", Level.WARN, "jump by -3600."),
        ({"clock_boottime_ns": -3600 * 10**9, "time_ns": ""}, "uptime", "", Level.WARN, "no time namespaces on pi2"),
        ({"clock_boottime_ns": -3600 * 10**9}, "uptime", "", Level.OK, "-3600.000 s from the source's; the clocks"),
        ({"time_ns": ""}, "uptime", "", Level.OK, "0.000 s from the source's"),
    ],
)
def test_host_checks(world, facts, id, node, level, text):
    world.machine("pi2", **facts)
    plan = world.plan()
    check = next(c for c in plan.checks if (c.id, c.node) == (id, node))
    assert check.level is level
    assert text in check.reason
    assert bool(check.remedy) is (level is not Level.OK)
    assert [c.id for c in plan.refused] == ([id] if level is Level.FAIL else [])


def test_clocks_are_compared_against_ours_however_late_the_target_is_asked(make_shell, mocker):
    clock = mocker.patch.object(preflight.time, "monotonic_ns", autospec=True)
    ends = []
    for asked_s, name in ((100, "a"), (160, "b")):  # a minute passes between the two
        clock.return_value = asked_s * 10**9
        shell = make_shell(Node(name))
        shell.hello.update(clock_realtime_ns=asked_s * 10**9, clock_boottime_ns=(asked_s + 500 * (name == "b")) * 10**9)
        ends.append(preflight.greet(Node(name), shell))
    checks = {check.id: check for check in preflight.host_checks(*ends)}
    assert checks["clock"].level is Level.OK and "+0.000 s" in checks["clock"].reason
    assert checks["uptime"].level is Level.OK and "+500.000 s" in checks["uptime"].reason


def test_one_kernel_has_one_uptime(world):
    for name, pid_ns in (("local", "pid:[1]"), ("pi2", "pid:[2]")):
        world.machine(name, boot_id="same", pid_ns=pid_ns)
    world.machine("pi2", clock_boottime_ns=3600 * 10**9)
    assert "uptime" not in {check.id for check in world.plan().checks}


def test_a_probe_that_finds_its_tool_unusable_forbids(world):
    probe = """
        @hookimpl
        def reberth_probe(node):
            if node.name == "pi2":
                return {"usable": False, "reason": "criu is too old", "remedy": "install criu 4.2"}
            return {"usable": True}
        """
    world.modules["runc"] = world.make_plugin("runc", "BACKEND", probe)
    plan = world.plan("runc/web")
    assert levels(plan)["runc-usable", "local"] is Level.OK
    (check,) = plan.refused
    assert (check.id, check.node, check.reason) == ("runc-usable", "pi2", "runc: criu is too old")
    assert check.remedy == "install criu 4.2"


def test_a_failure_can_be_skipped_by_its_id(world):
    world.machine("pi2", arch="aarch64", uid=7)
    plan = world.plan(skip=("arch",))
    check = next(c for c in plan.checks if c.id == "arch")
    assert check.level is Level.WARN and check.reason.endswith("(skipped on request)")
    assert [c.id for c in plan.refused] == ["root"]


def test_the_backends_own_check_can_be_skipped(world):
    survey = "@hookimpl\ndef reberth_survey():\n    return Survey((Check('files', Level.FAIL, 'libc.so.6 differs'),))"
    world.modules["runc"] = world.make_plugin("runc", "BACKEND", survey)
    assert [c.id for c in world.plan("runc/web").refused] == ["files"]
    plan = world.plan("runc/web", skip=("files", "clock"))
    assert plan.refused == ()
    assert levels(plan)["files", ""] is Level.WARN
    assert levels(plan)["clock", ""] is Level.OK


def test_skipping_a_check_that_was_not_made_is_a_usage_error(world):
    with pytest.raises(UsageError, match=r"--skip: there is no check 'arhc' \(did you mean arch\?\)") as caught:
        world.plan(skip=("arhc",))
    assert "cgroup2" in caught.value.hint
