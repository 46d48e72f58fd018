"""The checks of a process tree: each object that CRIU refuses, supervisors, connections, and lazy restore."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from reberth_hooks import HelperError, Level, Mode, Node, Options, Plan, Workload
from reberth_hooks.criu.objects import CAP_SYS_RESOURCE, GHOST_LIMIT_BYTES, RULES, object_checks, terminals_outside
from reberth_hooks.criu.preflight import (
    LAZY_FROM_BYTES,
    cpu_checks,
    criu_faults,
    image_space_checks,
    kernel_checks,
    lazy_restore,
    network_checks,
    space_checks,
    taken_checks,
    tcp_checks,
    tcp_words,
)

PLAIN = {
    "anon": {"[eventfd]": 2, "[eventpoll]": 1},
    "hugetlb": False,
    "devices": [],
    "traced_by": [],
    "uids": [0],
    "tcp": {"inside": 0, "outside": [], "listening": [], "unaccepted": [], "stay": []},
    "protocols": {"TCP": 2, "UNIX-STREAM": 1, "NETLINK": 1},
    **{key: [] for key in ("unix_outside", "nested", "watches", "pidfds", "shared_vm", "schedulers", "dead_leaders")},
    **{key: [] for key in ("sysv_items", "pipes_outside", "confined", "masters", "slaves", "terminals")},
    **{key: [] for key in ("unix_unaccepted", "mqueues", "bound")},
    "files_outside": [],
    "tasks": [{"comm": "sh"}],
    "ghosts": {"/tmp/small": 4096},
    "frozen": False,
    "sysv_shm": False,
    "namespaces": {"ipc": "ipc:[1]"},
    "helper_namespaces": {"ipc": "ipc:[1]"},
    "cgroup": "/sys/fs/cgroup/user.slice/session-3.scope",
    "parents": [],
}
HELLO = {"uid": 0, "cap_eff": CAP_SYS_RESOURCE}


def failed(checks):
    return {check.id for check in checks if check.level is Level.FAIL}


def test_an_ordinary_tree_has_nothing_against_it():
    assert list(object_checks(PLAIN, HELLO, "a")) == []
    assert failed(tcp_checks(PLAIN, Options(), "a")) == set()


@pytest.mark.parametrize(
    ("change", "id"),
    [
        ({"anon": {"[io_uring]": 1}}, "io-uring"),
        ({"hugetlb": True}, "hugetlb"),
        ({"devices": ["/dev/kvm"]}, "devices"),
        ({"traced_by": [7]}, "traced"),
        ({"anon": {"[perf_event]": 1}}, "anon-inode"),
        ({"protocols": {"MPTCP": 1}}, "sockets"),
        ({"unix_outside": ["/run/db.sock"]}, "unix-outside"),
        ({"unix_unaccepted": ["/run/db.sock"]}, "unix-unaccepted"),
        ({"mqueues": ["/q in process 7"]}, "mqueue"),
        ({"nested": ["net of 7"]}, "nested"),
        ({"ghosts": {"/tmp/large": GHOST_LIMIT_BYTES + 1}}, "ghosts"),
        ({"pidfds": [1]}, "pidfd"),
        ({"watches": ["inode 7 on device 0:30"]}, "watches"),
        ({"shared_vm": [8]}, "shared-vm"),
        ({"schedulers": ["SCHED_DEADLINE"]}, "scheduler"),
        ({"dead_leaders": [8]}, "dead-leader"),
        ({"frozen": True}, "frozen"),
        ({"sysv_shm": True}, "sysv-shm"),
    ],
)
def test_what_criu_refuses(change, id):
    assert failed(object_checks({**PLAIN, **change}, HELLO, "a")) == {id}


def test_other_users_need_the_capability():
    facts = {**PLAIN, "uids": [0, 1000]}
    assert failed(object_checks(facts, HELLO, "a")) == set()
    assert failed(object_checks(facts, {"uid": 0, "cap_eff": 0}, "a")) == {"capability"}


@pytest.mark.parametrize(
    ("change", "id"),
    [
        ({"sysv_items": ["queue 3"]}, "sysv"),
        ({"pipes_outside": [99]}, "pipes"),
        ({"files_outside": ["/srv/log with sh (99)"]}, "shared-files"),
        ({"confined": ["docker-default (enforce)"]}, "confined"),
    ],
)
def test_what_criu_leaves_out_warns(change, id):
    found = list(object_checks({**PLAIN, **change}, HELLO, "a"))
    assert [(check.id, check.level) for check in found] == [(id, Level.WARN)]
    assert str(next(iter(change.values()))[0]) in found[0].reason and found[0].remedy


def test_systemd_as_the_first_process_is_refused_and_elsewhere_it_is_not():
    assert failed(object_checks({**PLAIN, "tasks": [{"comm": "systemd"}, {"comm": "sh"}]}, HELLO, "a")) == {"systemd"}
    assert failed(object_checks({**PLAIN, "tasks": [{"comm": "sh"}, {"comm": "systemd"}]}, HELLO, "a")) == set()


def test_shared_memory_in_an_ipc_namespace_of_its_own_travels():
    facts = {**PLAIN, "sysv_shm": True, "namespaces": {"ipc": "ipc:[2]"}}
    assert list(object_checks(facts, HELLO, "a")) == []


def test_every_rule_has_a_remedy_and_an_id_of_its_own():
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert all(rule.remedy for rule in RULES)


def test_names_of_the_workload_are_escaped():
    (check,) = object_checks({**PLAIN, "unix_outside": ["/run/\x1b[2J\n"]}, HELLO, "a")
    assert "\\x1b[2J\\n" in check.reason and "\x1b" not in check.reason


def test_a_terminal_held_at_both_ends_is_no_terminal_outside():
    pair = {**PLAIN, "masters": [3], "slaves": [3], "terminals": ["/dev/pts/3", "/dev/pts/ptmx", "/dev/ptmx"]}
    assert terminals_outside(pair) == []
    assert terminals_outside({**pair, "slaves": [3, 4]}) == ["/dev/pts/4"]
    assert terminals_outside({**PLAIN, "terminals": ["/dev/tty1"]}) == ["/dev/tty1"]


def test_connections_that_nobody_accepts():
    facts = {**PLAIN, "tcp": {**PLAIN["tcp"], "unaccepted": ["127.0.0.1:80 - 127.0.0.1:4711"]}}
    assert failed(tcp_checks(facts, Options(), "a")) == {"tcp-unaccepted"}
    assert failed(tcp_checks(facts, Options(tcp_established=True), "a")) == {"tcp-unaccepted"}
    assert failed(tcp_checks(facts, Options(tcp_close=True), "a")) == set()


@pytest.mark.parametrize(
    ("here", "there", "bad"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "0.0.0.0:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:80", "127.0.0.1:8080", False),
        ("[0000:0000:0000:0000:0000:0000:0000:0000]:80", "10.0.0.1:80", True),
    ],
)
def test_ports_that_are_taken(here, there, bad):
    spaces = {"net": "net:[1]", "ipc": "ipc:[1]"}
    facts = {**PLAIN, "namespaces": spaces, "helper_namespaces": spaces, "abstract": []}
    facts["tcp"] = {**PLAIN["tcp"], "listening": [here]}
    target = Asked(taken={"tcp": [there], "abstract": ["x"]})
    assert bool(failed(taken_checks(facts, target))) is bad
    own = {**facts, "namespaces": {**spaces, "net": "net:[2]"}}
    assert not failed(taken_checks(own, target))
    assert failed(taken_checks({**facts, "abstract": ["x"]}, target)) == {"taken"}


def test_known_faults_of_criu():
    assert criu_faults((4, 2, 1)) == criu_faults(()) == []
    assert criu_faults((4, 2))[0]["id"] == "criu-cve"


@pytest.mark.parametrize(
    ("kernel", "source", "target", "ids"),
    [
        ("6.12.1", (4, 1, 1), (4, 1, 1), set()),
        ("6.16.0", (4, 2), (4, 1, 1), {"criu-sockets", "criu-older"}),
        ("6.18.5", (4, 2, 1), (4, 2), set()),
    ],
)
def test_criu_and_kernel_of_both_ends(kernel, source, target, ids):
    facts = {side: {"hello": {"kernel": kernel}} for side in ("source", "target")}
    tree = {"tcp": {"inside": 1, "outside": [], "listening": []}}
    assert {c.id for c in kernel_checks(facts, {"source": source, "target": target}, tree)} == ids


class Asked:
    """A node that answers operations from a table and has criu's features or not."""

    def __init__(self, code: int = 0, **answers: object) -> None:
        self.node, self.code, self.answers, self.ran = Node("a"), code, answers, []
        self.missing: tuple[str, ...] = ()

    def call(self, op, **args):
        return self.answers[op]

    def run(self, argv, check=True):
        self.ran.append(argv)
        if argv[0] in self.missing:
            raise HelperError(f"{argv[0]} is not installed", kind="missing")
        return SimpleNamespace(code=self.code, out="")


def test_the_network_lock_is_asked_for_only_where_connections_are_kept():
    good, bad = Asked(0), Asked(1)
    assert list(network_checks((), good, bad)) == list(network_checks(("tcp-close", "skip-in-flight"), good, bad)) == []
    assert not good.ran
    assert failed(network_checks(("tcp-established",), good, bad)) == {"network-lock"}
    assert failed(network_checks(("tcp-established",), good, good)) == set()
    good.missing = ("nft",)
    assert failed(network_checks(("tcp-established",), Asked(0), good)) == {"firewall-tool"}


def test_the_processor_is_compared_by_criu():
    assert list(cpu_checks(Asked(cpu_dump=""), Asked())) == []
    assert failed(cpu_checks(Asked(cpu_dump="x"), Asked(cpu_check=[]))) == set()
    (check,) = cpu_checks(Asked(cpu_dump="x"), Asked(cpu_check=["CPU does not have avx512f"]))
    assert check.level is Level.FAIL and "avx512f" in check.reason


def test_images_need_one_place_with_room_for_all_of_them():
    space = {"/dev/shm": 100 << 20, "/run": 30 << 20, "/var/lib": 0}
    assert failed(image_space_checks(70 << 20, Asked(space=space))) == set()
    assert failed(image_space_checks(71 << 20, Asked(space=space))) == {"image-space"}


@pytest.mark.parametrize(("free_bytes", "ids"), [(100 << 20, []), (90 << 20, ["images-on-disk"])])
def test_s5_images_that_lie_on_a_disk_are_told_of(free_bytes, ids):
    space = {"/dev/shm": free_bytes, "/run": 1 << 20, "/var/lib": 1 << 30}
    found = list(image_space_checks(70 << 20, Asked(space=space)))
    assert [(check.id, check.level) for check in found] == [(id, Level.WARN) for id in ids]


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
    facts = {**PLAIN, "tcp": {**tcp, "listening": [], "unaccepted": [], "stay": []}}
    assert bool(failed(tcp_checks(facts, options, "a"))) is bad
    if words is not None:
        assert tcp_words(facts, options) == words


def test_space():
    assert failed(space_checks(100, 99, "a")) == {"space"}
    assert failed(space_checks(100, 100, "a")) == set()


@pytest.mark.parametrize(
    ("pages", "change", "lazy"),
    [
        (LAZY_FROM_BYTES, {}, True),
        (LAZY_FROM_BYTES - 1, {}, False),
        (LAZY_FROM_BYTES, {"mode": Mode.PRE_COPY}, True),
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
