"""The checks of a process tree: each object that CRIU refuses, supervisors, connections, and lazy restore."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from reberth_hooks import Level, Mode, Node, Options, Plan, Workload
from reberth_hooks.tasks import (
    CAP_SYS_RESOURCE,
    LAZY_FROM_BYTES,
    lazy_restore,
    object_checks,
    restart_of,
    space_checks,
    supervisor_checks,
    supervisor_of,
    tcp_checks,
    tcp_words,
)

PLAIN = {
    "anon": {"[eventfd]": 2, "[eventpoll]": 1},
    "hugetlb": False,
    "devices": [],
    "traced_by": [],
    "uids": [0],
    "tcp": {"inside": 0, "outside": [], "listening": []},
    "cgroup": "/sys/fs/cgroup/user.slice/session-3.scope",
    "parents": [],
}
HELLO = {"uid": 0, "cap_eff": CAP_SYS_RESOURCE}


def failed(checks):
    return {check.id for check in checks if check.level is Level.FAIL}


def test_an_ordinary_tree_has_nothing_against_it():
    assert list(object_checks(PLAIN, HELLO, "a")) == []
    assert list(supervisor_checks(PLAIN, "", "a")) == []
    assert failed(tcp_checks(PLAIN, Options(), "a")) == set()


@pytest.mark.parametrize(
    ("change", "id"),
    [
        ({"anon": {"[io_uring]": 1}}, "io-uring"),
        ({"hugetlb": True}, "hugetlb"),
        ({"devices": ["/dev/kvm"]}, "devices"),
        ({"traced_by": [7]}, "traced"),
    ],
)
def test_what_criu_refuses(change, id):
    assert failed(object_checks({**PLAIN, **change}, HELLO, "a")) == {id}


def test_other_users_need_the_capability():
    facts = {**PLAIN, "uids": [0, 1000]}
    assert failed(object_checks(facts, HELLO, "a")) == set()
    assert failed(object_checks(facts, {"uid": 0, "cap_eff": 0}, "a")) == {"capability"}


def test_unknown_descriptors_warn():
    found = list(object_checks({**PLAIN, "anon": {"[strange]": 1}}, HELLO, "a"))
    assert [(check.id, check.level) for check in found] == [("anon-inode", Level.WARN)]


@pytest.mark.parametrize(
    ("tcp", "options", "bad", "words"),
    [
        ({"inside": 0, "outside": []}, Options(), False, ()),
        ({"inside": 4, "outside": []}, Options(), False, ("tcp-established",)),
        ({"inside": 0, "outside": ["x"]}, Options(), True, ()),
        ({"inside": 0, "outside": ["x"]}, Options(tcp_established=True), False, ("tcp-established",)),
        ({"inside": 0, "outside": ["x"]}, Options(tcp_close=True), False, ("tcp-close", "skip-in-flight")),
        ({"inside": 0, "outside": []}, Options(tcp_close=True, tcp_established=True), True, None),
    ],
)
def test_connections(tcp, options, bad, words):
    facts = {**PLAIN, "tcp": {**tcp, "listening": []}}
    assert bool(failed(tcp_checks(facts, options, "a"))) is bad
    if words is not None:
        assert tcp_words(facts, options) == words


@pytest.mark.parametrize(
    ("change", "who"),
    [
        ({}, ("", "")),
        ({"cgroup": "/sys/fs/cgroup/system.slice/nginx.service"}, ("systemd", "nginx.service")),
        ({"cgroup": "/sys/fs/cgroup/system.slice/system-getty.slice/x@1.service/sub"}, ("systemd", "x@1.service")),
        ({"cgroup": "/sys/fs/cgroup/system.slice/ssh.service"}, ("", "")),
        ({"parents": ["containerd-shim", "systemd"]}, ("parent", "containerd-shim")),
        ({"parents": ["sh", "supervisord"]}, ("parent", "supervisord")),
        (
            {"cgroup": "/sys/fs/cgroup/user.slice/user-7.slice/user@7.service/app.slice/x.service"},
            ("user", "x.service"),
        ),
        ({"cgroup": "/sys/fs/cgroup/user.slice/user-7.slice/session-2.scope"}, ("", "")),
    ],
)
def test_supervisors_are_recognised(change, who):
    assert supervisor_of({**PLAIN, **change}) == who


@pytest.mark.parametrize(
    ("said", "level"), [("no", Level.WARN), ("always", Level.FAIL), ("on-failure", Level.FAIL), ("?", Level.FAIL)]
)
def test_a_unit_that_restarts_is_refused(said, level):
    facts = {**PLAIN, "cgroup": "/sys/fs/cgroup/system.slice/nginx.service"}
    assert [check.level for check in supervisor_checks(facts, said, "a")] == [level]


def test_a_parent_that_lives_may_be_one_that_restarts():
    """No list of names can know every loop in a shell: who knows better says so."""
    found = list(supervisor_checks({**PLAIN, "parents": ["sh", "sshd"]}, "", "a"))
    assert [(check.id, check.level) for check in found] == [("parent", Level.FAIL)]
    assert list(supervisor_checks({**PLAIN, "parents": ["systemd"]}, "", "a")) == []
    assert list(supervisor_checks({**PLAIN, "parents": []}, "", "a")) == []


def test_restart_is_asked_of_systemd_and_only_for_units():
    asked = []

    def run(argv, check=True):
        asked.append(argv)
        return SimpleNamespace(out="always\n")

    source = SimpleNamespace(run=run)
    assert restart_of(source, PLAIN) == ""
    assert asked == []
    assert restart_of(source, {**PLAIN, "cgroup": "/x/system.slice/-evil.service"}) == "always"
    assert asked[0][-2:] == ["--", "-evil.service"]


def test_space():
    assert failed(space_checks(100, 99, "a")) == {"space"}
    assert failed(space_checks(100, 100, "a")) == set()


@pytest.mark.parametrize(
    ("pages", "change", "lazy"),
    [
        (LAZY_FROM_BYTES, {}, True),
        (LAZY_FROM_BYTES - 1, {}, False),
        (LAZY_FROM_BYTES, {"mode": Mode.PRE_COPY}, False),
        (LAZY_FROM_BYTES, {"options": Options(lazy_restore=False)}, False),
        (LAZY_FROM_BYTES, {"facts": {"target": {"criu": {"features": {"uffd-noncoop": False}}}}}, False),
        (LAZY_FROM_BYTES, {"facts": {"target": {"criu": {}}}}, False),
    ],
)
def test_when_a_restore_is_lazy(pages, change, lazy):
    plan = Plan(
        id="x",
        workload=Workload("a", "criu", "1"),
        source=Node("a"),
        target=Node("b"),
        target_name="1",
        mode=Mode.STOP_AND_COPY,
        why="",
        options=Options(),
        routes={},
        facts={"target": {"criu": {"features": {"uffd-noncoop": True}}}},
    )
    assert lazy_restore(replace(plan, **change), "criu", pages) is lazy
