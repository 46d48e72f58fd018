"""What the daemons' rsync overlooks: the copy is dated back between its first sync and the first dump."""

from __future__ import annotations

import pytest

from reberth_hooks import CommandError
from reberth_lxd.held import backdate

ROOT = "/proc/7/root/var/lib/lxd/storage-pools/fast/containers/c1/rootfs"


class End:
    """The node of one end, and what it was asked."""

    def __init__(self, paused=True):
        self.paused, self.asked = paused, []

    def call(self, op, **words):
        self.asked.append(op)
        if op == "stats":
            return [{"mode": 1} if path == ROOT else None for path in words["paths"]]
        return self.paused if op == "gate_paused" else None

    def run(self, argv, **_):
        self.asked.append(argv)


class Run:
    """A move by ssh to a pool called fast."""

    def __init__(self, paused=True):
        self.source, self.target = End(paused), End()
        details = {"sockets": ["", "/var/lib/lxd/unix.socket"], "pool": "fast"}
        self.plan = type("Plan", (), {"details": details, "target_name": "c1"})


class Side:
    """The target's daemon, whose mounts are seen from its process."""

    def __init__(self, pid=7):
        self.environment = {"server_pid": pid}


def test_the_copy_is_found_where_its_daemon_sees_it():
    assert backdate.state_dir("/var/lib/lxd/unix.socket") == "/var/lib/lxd"
    assert backdate.state_dir("/run/incus/unix.socket") == "/var/lib/incus"
    assert backdate.state_dir("/var/snap/lxd/common/lxd/unix.socket") == "/var/snap/lxd/common/lxd"


def test_files_of_the_seconds_around_the_first_sync_are_aged():
    """rsync would take one that is written again in the second in which it was copied for unchanged."""
    move = Run()
    assert backdate.date_back(move, Side(), 1000.0)
    assert move.target.asked[1][:2] == ["find", ROOT] and {"@880", "--date=@0"} < set(move.target.asked[1])


def test_a_copy_that_is_not_mounted_is_said():
    move = Run()
    assert not backdate.date_back(move, Side(8), 1000.0) and move.target.asked == ["stats"]
    assert not backdate.date_back(move, Side(0), 1000.0)


def test_nothing_is_done_before_criu_waits():
    move = Run(paused=False)
    assert not backdate.before_dump(move, Side(), 1000.0)
    assert (move.source.asked, move.target.asked) == (["gate_paused"], [])


def test_criu_begins_when_the_copy_is_dated_back():
    move = Run()
    assert backdate.before_dump(move, Side(), 1000.0)
    assert move.source.asked == ["gate_paused", "gate_begin"] and len(move.target.asked) == 2


def test_criu_never_begins_where_the_copy_cannot_be_reached():
    move = Run()
    with pytest.raises(CommandError, match="overlook") as refused:
        backdate.before_dump(move, Side(8), 1000.0)
    assert move.source.asked == ["gate_paused"] and "near-live" in refused.value.hint
