"""A checkpoint holds all of its workload, however a move would carry it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reberth.commands import checkpoint
from reberth.config.request import Request
from reberth.connect.helper import HelperShell
from reberth_hooks import Mode, Node, Options


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.POST_COPY, Mode.HYBRID, Mode.PRE_COPY])
def test_no_page_is_left_behind(mocker, mode):
    """By `auto` over a slow link a checkpoint was a post-copy once: the source was given up with its pages."""
    make = mocker.patch.object(checkpoint, "make_plan", autospec=True, return_value=SimpleNamespace(refused=()))
    ends = [mocker.create_autospec(HelperShell, instance=True) for _ in range(2)]
    for name, end in zip("ab", ends, strict=True):
        end.node = Node(name)
    host = SimpleNamespace(config=SimpleNamespace(defaults={}, files=()), stage=None)
    checkpoint._plan(host, Request("a:criu/1", "b:", Options(mode=mode, timeout_s=9)), *ends)
    options = make.call_args.args[0].options
    assert (options.mode, options.timeout_s) == (Mode.STOP_AND_COPY, 9)
