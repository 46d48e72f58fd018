"""Watches both nodes from outside while a workload moves: did two copies ever run, did anything run after it must not?

The workload stamps each beat with its time, in an attribute of a file on the node where it runs. Stamps that appear on
one node only were made there. In their order they must be beats of the source, then beats of the copy, and never beats
of the source again. The attribute holds the newest quarter of a second of stamps, so none is missed between two looks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from workloads.pulse import ATTRIBUTE, STAMP, STAMPS

from reberth_lab.node import Node
from reberth_lab.proc import LabError

PAUSE_S = 0.004


class Witness:
    """Collects stamps of both nodes until `stop`."""

    def __init__(self, nodes: Sequence[Node], directory: str) -> None:
        self.nodes, self.path = list(nodes), f"{directory}/pulse".lstrip("/")
        self.stamps: list[set[int]] = [set() for _ in nodes]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _root(self, node: Node) -> Path | None:
        with contextlib.suppress(LabError, OSError):
            return node.root
        return None

    def _run(self) -> None:
        roots: list[Path | None] = [None] * len(self.nodes)
        while not self._end.wait(PAUSE_S):
            for number, node in enumerate(self.nodes):
                root = roots[number] = roots[number] or self._root(node)
                try:
                    data = os.getxattr(root / self.path, ATTRIBUTE) if root else b""
                except OSError:
                    roots[number] = None if root and not root.exists() else root
                    continue
                if len(data) == STAMP.size * STAMPS:
                    self.stamps[number].update(stamp for (stamp,) in STAMP.iter_unpack(data))

    def stop(self) -> list[tuple[int, int]]:
        """The time line: (stamp, number of the node), without those that travelled with the file."""
        time.sleep(PAUSE_S * 4)
        self._end.set()
        self._thread.join()
        seen = [{stamp for stamp in stamps if stamp} for stamps in self.stamps]
        travelled = set.intersection(*seen)
        return sorted([(stamp, number) for number, one in enumerate(seen) for stamp in one - travelled])


def turns(line: Sequence[tuple[int, int]]) -> list[int]:
    """Who ran, in order, each once a turn: [0, 1] is a move, [0] is none, [0, 1, 0] a rewind or worse."""
    found: list[int] = []
    for _, number in line:
        if not found or found[-1] != number:
            found.append(number)
    return found
