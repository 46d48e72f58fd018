"""What the host hands to a plugin: a Shell for each node and the Move itself. Plugins import these for types only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from reberth_hooks.types import Node, Plan


class Pending(Protocol):
    """An operation that is under way on a node."""

    def result(self, timeout_s: float | None = None) -> Any:
        """Its answer; raises what `Shell.call` raises."""


class Shell(Protocol):
    """A node through its helper: argument lists in, plain data out; no shell ever sees a name."""

    @property
    def node(self) -> Node:
        """Return the node of the inventory."""

    def call(self, op: str, /, *, timeout_s: float | None = 30.0, **args: Any) -> Any:
        """Run one operation of the node helper (docs/helper.md) and wait for its answer.

        Raises HelperError (refused or failed there), ConnectionLostError (no answer will come).
        """

    def begin(self, op: str, /, *, on_progress: Callable[..., None] | None = None, **args: Any) -> Pending:
        """Start one operation and go on; for the two ends of a transfer. `on_progress` gets `bytes=` as they move."""

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, check: bool = True, stdin: str = "") -> Outcome:
        """Run a program on the node; raises CommandError when `check` and it does not exit with 0."""


class Outcome(Protocol):
    """How a program ended."""

    @property
    def code(self) -> int:
        """Exit status; negative: the signal that ended it."""

    @property
    def out(self) -> str:
        """Return what it wrote to standard output."""

    @property
    def err(self) -> str:
        """Return what it wrote to standard error."""


class Controller(Protocol):
    """The machine that the command runs on, and its inventory; for the commands that a plugin adds."""

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, check: bool = True, stdin: str = "") -> Outcome:
        """Run a program on this machine, without a shell; raises CommandError as `Shell.run`."""

    def nodes(self) -> Mapping[str, Node]:
        """Return the nodes that are configured now."""

    def add_node(self, node: Node, host_key: str) -> tuple[Node, Mapping[str, str]]:
        """Pin `host_key` (a line of known_hosts), probe the node and write it into the inventory, over one of its name.

        Returns the node as it was written, and why each backend that is not enabled is not usable there. The pinned
        file is named in the connector's table as `known_hosts`. Raises UnreachableError, UntrustedError.
        """

    def remove_node(self, name: str) -> bool:
        """Take a node and its pinned key out of the inventory; False when it was not there."""


class Move(Protocol):
    """One migration as a phase may know it."""

    @property
    def id(self) -> str:
        """Return the id of the run, also the name of its directories."""

    @property
    def plan(self) -> Plan:
        """Return what was agreed."""

    @property
    def source(self) -> Shell:
        """Return the node that runs the workload now."""

    @property
    def target(self) -> Shell:
        """Return the node that will."""

    def note(self, key: str, value: Any) -> None:
        """Keep a fact in the controller's journal, for later phases and for `recover`."""

    def recall(self, key: str) -> Any:
        """Return the last value noted under this key, or None."""

    def open_pipe(self) -> None:
        """Join source and target by one pipe for bulk data through the controller; before the freeze, once."""

    def open_pages(self) -> None:
        """Join source and target by a connection for pages, both ways; before the freeze, once."""

    def gather(self, *pending: Pending, stall_s: float = 15.0) -> list[Any]:
        """Wait for all of these; the first failure is raised at once, and so is a stall: no byte for `stall_s`."""

    def emit(self, kind: str, text: str = "", **data: Any) -> None:
        """Tell the observers."""
