"""What one thing of the ipc workload looks like."""

from __future__ import annotations

from workloads.base import Checks


class Item:
    """One pipe, socket, timer…; made by its constructor, looked at by ``check`` as often as asked."""

    name = ""
    usual = True  # part of the set that criu moves; the others are for tests of refusals

    def __init__(self, seed: int, directory: str) -> None:
        self.seed = seed
        self.directory = directory
        self.setup()

    def setup(self) -> None:
        """Create it."""
        raise NotImplementedError

    def step(self) -> None:
        """Called after each beat."""

    def check(self, checks: Checks) -> None:
        """Compare it with what it must be, and leave it so."""
        raise NotImplementedError

    def spoil(self) -> None:
        """Damage it as a bad move would."""
        raise NotImplementedError
