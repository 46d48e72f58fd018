"""A fill that does not get on ends: nothing moves, or the same moves again and again; and `recover` can be stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from reberth.node.errors import OpError
from reberth.node.pages import patience, shared_table
from reberth.node.pages.fill import Filler
from reberth.node.pages.patience import CIRCLE_S, STALL_S, Patience
from reberth.run.signals import DetachedRunError, Interrupts


@pytest.fixture
def fill(mocker):
    """A fill under a clock of our own: what it has read, the userfaultfds that are open, and a look at it later."""

    class Fill:
        now_s, read_bytes, open_ = 0.0, 0, 2

        def __init__(self) -> None:
            mocker.patch.object(patience.time, "monotonic", lambda: self.now_s)
            mocker.patch.object(shared_table, "count", autospec=True, side_effect=lambda _: self.open_)
            mocker.patch.object(Patience, "_read_bytes", autospec=True, side_effect=lambda _: self.read_bytes)
            self.patience = Patience(os.getpid(), 1 << 20, None)

        def later(self, seconds: float, read_bytes: int = 0) -> None:
            self.now_s += seconds
            self.read_bytes += read_bytes
            self.patience.check()

    return Fill()


def test_one_that_reads_goes_on_for_as_long_as_it_likes(fill):
    for _ in range(20):
        fill.later(STALL_S - 1, 4096)


def test_one_that_reads_nothing_ends(fill):
    fill.later(1, 4096)
    fill.later(STALL_S)
    with pytest.raises(OpError, match="no page came for 60 s") as caught:
        fill.later(1)
    assert caught.value.hint


def test_one_that_reads_the_same_again_ends_too(fill):
    fill.later(1, 1 << 20)
    with pytest.raises(OpError, match="none was new"):
        for _ in range(int(CIRCLE_S)):
            fill.later(2, 1 << 20)
    assert fill.now_s < 2 * CIRCLE_S


def test_a_process_that_has_its_pages_is_progress(fill):
    fill.later(1, 1 << 20)
    for fill.open_ in (1, 2, 1, 2, 1):  # and so is a new one
        fill.later(1, 4096)
        for _ in range(5):
            fill.later(STALL_S - 10, 4096)


def test_what_a_process_has_read_is_known():
    one = Patience(os.getpid(), 0, None)
    before = one._read_bytes()
    with open(sys.executable, "rb") as file:
        file.read(1 << 16)
    assert one._read_bytes() > before


def test_a_stopped_daemon_is_ended_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "STALL_S", 0.5)
    one = Filler(str(tmp_path))
    one.process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    one.process.send_signal(signal.SIGSTOP)
    with pytest.raises(OpError, match="no page came"):
        one.wait()
    assert one.process.wait(10) == -signal.SIGKILL
    one.stop()


def test_the_first_signal_ends_what_recover_waits_for():
    heard = Interrupts(60, lambda _: None)
    heard.brisk = True
    heard.settle()
    heard.check()
    heard.heard = 1
    with pytest.raises(DetachedRunError):
        heard.check()


def test_its_twin_in_a_move_waits_for_the_second():
    heard = Interrupts(60, lambda _: None)
    heard.settle()
    heard.heard = 1
    heard.check()
    heard.heard = 2
    with pytest.raises(DetachedRunError):
        heard.check()
