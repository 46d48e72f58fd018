"""Sending a tree: whatever it is, it waits for what the user allows a second."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from unittest.mock import create_autospec

import pytest

from reberth.node.operations import trees
from reberth.node.system.rate_limit import Bucket
from reberth.node.tree import presend, progress
from reberth.node.tree.compression import Packer


@pytest.mark.parametrize("kind", ["filesystem", "images", "memory"])
def test_every_kind_of_tree_waits_for_the_bucket(tmp_path, monkeypatch, kind):
    """Memory that goes ahead of the freeze too, which is most of what a move sends."""
    size = 1 << 20
    if kind != "memory":
        (tmp_path / "pages-1.img").write_bytes(os.urandom(size))

    def capture(pids, name, tick):
        with open(name, "wb") as out:
            out.write(os.urandom(size))
        return []

    monkeypatch.setattr(presend, "capture", create_autospec(presend.capture, side_effect=capture))
    out, into = os.pipe()
    got = []

    def drain():
        while piece := os.read(out, 1 << 16):
            got.append(len(piece))

    reader = threading.Thread(target=drain)
    reader.start()
    monkeypatch.setattr(trees, "data_pipe", create_autospec(trees.data_pipe, return_value=(-1, into)))
    bucket = create_autospec(Bucket, instance=True)
    stop = threading.Event()
    known = {"guess": None, "ahead_bytes": 0, "snapshots": {}, "packer": Packer()}
    daemon = SimpleNamespace(bucket=bucket, stop_transfers=stop, **known)
    try:
        found = trees.tree_send(daemon, lambda **_: None, str(tmp_path), kind)
    finally:
        os.close(into)
        reader.join()
        os.close(out)
    assert sum(call.args[0] for call in bucket.spend.call_args_list) >= size
    assert sum(got) >= size and found["bytes"] >= size


def test_whoever_waits_hears_of_a_capture_that_takes_long(tmp_path, monkeypatch):
    """64 GiB are a minute in which nothing is sent: the controller gives up a node that is silent for 15 s."""
    told, stop, clock = [], threading.Event(), iter(range(0, 1000, 7))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    def capture(pids, name, tick):
        for _ in range(3):
            tick()
        assert told == [{"bytes": 0}] * 3
        stop.set()
        tick()

    monkeypatch.setattr(presend, "capture", create_autospec(presend.capture, side_effect=capture))
    monkeypatch.setattr(trees, "data_pipe", create_autospec(trees.data_pipe, return_value=(-1, -1)))
    known = {"guess": None, "ahead_bytes": 0, "snapshots": {}, "packer": Packer()}
    daemon = SimpleNamespace(bucket=None, stop_transfers=stop, **known)
    with pytest.raises(trees.OpError) as caught:
        trees.tree_send(daemon, lambda **words: told.append(words), str(tmp_path), "memory")
    assert caught.value.kind == "transfer"


def test_a_capture_ticks_for_each_piece(tmp_path):
    ticks = []
    found = presend.capture([os.getpid()], str(tmp_path / "memory"), lambda: ticks.append(1))
    size = sum(place.length for place in found)
    assert len(ticks) >= size // presend.READ_BYTES and len(ticks) >= len(found) > 0
