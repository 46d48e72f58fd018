"""Rounds read lazily by the real CRIU, on any kernel: a dump that is split into two rounds comes back whole.

Live because CRIU reads the chain of images that we have split.
"""

from __future__ import annotations

from pathlib import Path

from livekit import split
from livekit.snapshot import Watch

from reberth_lab.node import Node

REBERTH = "/usr/local/lib/reberth"


def test_pages_of_an_earlier_round_are_lazy(watch: Watch, node1: Node) -> None:
    program = Path(split.__file__).read_text(encoding="utf-8")
    assert node1.run(["python3", "-c", program, REBERTH]).stdout.strip() == "wrong 0"
    watch.check()
