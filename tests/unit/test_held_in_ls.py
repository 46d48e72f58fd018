"""A workload that a run holds frozen is listed as held, with the run; everything else as its backend says."""

from __future__ import annotations

from types import SimpleNamespace

from reberth.host import _held, _marked
from reberth_hooks import Found, HelperError

RUNS = [
    {"id": "r1", "workload": "runc/web", "frozen": True},
    {"id": "r2", "workload": "criu/7", "frozen": False},
]


def shell(answer):
    def call(op):
        assert op == "runs"
        if isinstance(answer, Exception):
            raise answer
        return answer

    return SimpleNamespace(call=call)


def test_only_what_is_frozen_by_a_run_is_held():
    held = _held(shell(RUNS))
    web, tree, other = Found("runc", "web", "paused"), Found("criu", "7", "sleeping"), Found("runc", "7", "running")
    found = [_marked(one, held) for one in (web, tree, other)]
    assert [(one.status, one.detail) for one in found] == [("held", "by run r1"), ("sleeping", ""), ("running", "")]


def test_a_node_that_does_not_tell_holds_nothing():
    assert _held(shell(HelperError("no", kind="os"))) == {}
