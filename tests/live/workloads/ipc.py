"""A process with data, signals, timers and events waiting in the kernel."""

from __future__ import annotations

import argparse

from workloads.base import Checks, Workload
from workloads.ipc_items import Item
from workloads.ipc_queues import QUEUES
from workloads.ipc_signals import SIGNALS

ITEMS: dict[str, type[Item]] = {item.name: item for item in (*QUEUES, *SIGNALS)}


class Ipc(Workload):
    """One of each thing by which processes talk; ``--only`` and ``--without`` choose among them.

    Each can be spoiled by its own name, which is what a test plants.
    """

    kind = "ipc"
    plants = tuple(ITEMS)

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Which things."""
        parser.add_argument("--only", default="", help="comma-separated names")
        parser.add_argument("--without", default="", help="comma-separated names")

    def setup(self) -> None:
        """Create them all."""
        usual = [name for name, item in ITEMS.items() if item.usual]
        only = [name for name in self.options.only.split(",") if name] or usual
        without = [name for name in self.options.without.split(",") if name]
        unknown = set(only + without) - set(ITEMS)
        if unknown:
            raise ValueError(f"unknown: {sorted(unknown)}; known: {sorted(ITEMS)}")
        self.items = {name: ITEMS[name](self.seed, self.directory) for name in only if name not in without}

    def step(self, elapsed_s: float) -> float:
        """Let the items count what they count."""
        for item in self.items.values():
            item.step()
        return 0.0

    def verify(self, checks: Checks) -> None:
        """Check one item after the other."""
        for name, item in self.items.items():
            checks.guard(name, lambda item=item: item.check(checks))  # type: ignore[misc]
            checks.count(name)

    def plant(self, kind: str) -> None:
        """Spoil one item."""
        self.items[kind].spoil()
