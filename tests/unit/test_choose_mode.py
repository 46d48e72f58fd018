"""`auto`: which mode for which workload, link and features, and the reason that the plan gives."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reberth.config.request import Request
from reberth.plan import choose
from reberth_hooks import Check, Declaration, Level, Mode, Options, Role, Survey, UsageError
from reberth_hooks.criu.modes import header_bytes, unfit_modes

MIB = 1 << 20
ALL = frozenset({Mode.STOP_AND_COPY, Mode.PRE_COPY, Mode.POST_COPY, Mode.HYBRID})
SOFT_DIRTY = Check("soft-dirty", Level.FAIL, "no soft-dirty", "another kernel")
HERE = {"pre-copy": SOFT_DIRTY, "hybrid": SOFT_DIRTY}  # a kernel as that of many ARM boards
UFFD = Check("userfaultfd", Level.FAIL, "no userfaultfd", "another kernel")


def stage(modes=ALL):
    declaration = Declaration("a backend", frozenset({Role.BACKEND}), modes=modes)
    return SimpleNamespace(catalog=SimpleNamespace(get=lambda name: SimpleNamespace(declaration=declaration)))


def auto(mib, unfit=(), **options):
    details = {} if mib is None else {"memory_bytes": mib * MIB}
    request = Request("web", "b:", Options(**options))
    found = choose.mode(request, "criu", stage(), Survey((), details, dict(unfit)), None, None, {})
    return found.mode, found.why, found.checks


@pytest.mark.parametrize(
    ("mib", "max_downtime_s", "unfit", "mode", "reason"),
    [
        (4, 0.3, HERE, Mode.STOP_AND_COPY, "of downtime, within 0.3 s of --max-downtime"),
        (256, 0.3, HERE, Mode.POST_COPY, "no pre-copy: no soft-dirty"),
        (256, 10.0, HERE, Mode.STOP_AND_COPY, "within 10 s"),
        (1, 0.05, HERE, Mode.STOP_AND_COPY, "no other mode is much shorter"),
        (256, 0.3, {**HERE, "post-copy": UFFD}, Mode.STOP_AND_COPY, "no post-copy: no userfaultfd"),
        (256, 1.0, {}, Mode.STOP_AND_COPY, "within 1 s"),
        (256, 0.05, {}, Mode.HYBRID, "more than 0.05 s"),
        (256, 0.05, {"post-copy": UFFD, "hybrid": UFFD}, Mode.PRE_COPY, "rounds while it runs"),
        (None, 0.3, {}, Mode.STOP_AND_COPY, "the plainest that the backend offers"),
    ],
)
def test_the_choice(mib, max_downtime_s, unfit, mode, reason):
    chosen, why, checks = auto(mib, unfit, max_downtime_s=max_downtime_s)
    assert (chosen, reason in why, checks) == (mode, True, ()), why


def test_pre_copy_where_memory_cannot_go_ahead():
    chosen, why, _ = auto(256, {}, max_downtime_s=0.5, memory_ahead=False)
    assert (chosen, "rounds while it runs" in why) == (Mode.PRE_COPY, True), why


def test_a_mode_that_was_asked_for_is_forbidden_not_replaced():
    chosen, why, checks = auto(256, {"post-copy": UFFD}, mode=Mode.POST_COPY)
    assert (chosen, why, checks) == (Mode.POST_COPY, "post-copy: as asked", (UFFD,))
    assert auto(256, {"post-copy": UFFD}, mode=Mode.STOP_AND_COPY)[2] == ()


def test_a_mode_that_the_backend_lacks():
    with pytest.raises(UsageError, match="does not offer near-live"):
        auto(4, mode=Mode.NEAR_LIVE)


# What two nodes can do


def facts(**change):
    hello = {"kernel": "6.18.0", "pipe_max_bytes": 1 << 20, "cap_eff": 1 << 24}
    probe = {"version": [4, 2, 1], "features": {"uffd-noncoop": True, "mem_dirty_track": True}}
    found = {side: {"hello": dict(hello), "criu": dict(probe)} for side in ("source", "target")}
    for key, value in change.items():
        side, _, rest = key.partition("_")
        where = found[side]["criu" if rest in ("version", "features") else "hello"]
        where[rest] = value
    return found


TREE = {"shared_locks": []}


def test_nothing_forbids_post_copy_on_two_good_nodes():
    assert unfit_modes(facts(), "criu", TREE, ()) == {}
    assert unfit_modes(facts(source_cap_eff=0, source_pipe_max_bytes=4 << 20), "criu", TREE, ("tcp-close",)) == {}


@pytest.mark.parametrize(
    ("change", "tree", "tcp", "id", "word"),
    [
        ({"target_features": {"mem_dirty_track": True}}, TREE, (), "userfaultfd", "the target's kernel or criu"),
        ({"source_features": {"mem_dirty_track": True}}, TREE, (), "userfaultfd", "the source's kernel or criu"),
        ({"target_version": [4, 1, 1]}, TREE, (), "page-header", "criu 4.2.1 and 4.1.1"),
        ({"target_kernel": "5.4.0-150"}, TREE, (), "guardian", "kernel 5.4.0-150"),
        ({"source_cap_eff": 0}, TREE, (), "pipe-max-size", "fs.pipe-max-size is 1048576"),
        ({}, TREE, ("tcp-established",), "post-copy-tcp", "TCP connections"),
        ({}, {"shared_locks": ["/nfs/a\n"]}, (), "post-copy-locks", "/nfs/a\\n"),
    ],
)
def test_what_forbids_it_and_what_helps(change, tree, tcp, id, word):
    found = unfit_modes(facts(**change), "criu", tree, tcp)
    assert set(found) == {"post-copy", "hybrid"}
    check = found["post-copy"]
    assert (check.id, check.level) == (id, Level.FAIL)
    assert word in check.reason
    assert check.remedy


def test_without_soft_dirty_memory_cannot_travel_in_rounds():
    found = unfit_modes(facts(source_features={"uffd-noncoop": True}), "criu", TREE, ())
    assert set(found) == {"pre-copy", "hybrid"}
    assert found["pre-copy"].id == "soft-dirty"
    assert "--mode post-copy" in found["pre-copy"].remedy
    assert unfit_modes(facts(target_features={"uffd-noncoop": True}), "criu", TREE, ()) == {}


@pytest.mark.parametrize(("version", "size"), [((4, 2), 32), ((4, 2, 1), 32), ((4, 1, 1), 24), ((3, 19), 24), ((), 24)])
def test_the_head_of_a_page_message(version, size):
    assert header_bytes(version) == size
