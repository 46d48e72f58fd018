"""A node without a login: its daemon's API alone is reached, through the plugin of its connector.

What a helper would keep on the node (journal, vote, verdict) is not there. The controller's own journal, and what the
daemons say, tell instead how a run ended; `reberth_answer` puts that into the words of `facts` (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reberth.connect.helper import DECIDING, Answer, Asked, HelperShell
from reberth.connect.process import Finished
from reberth.run.journal import Journal, runs
from reberth.run.outcome import is_open
from reberth_hooks import HelperError, Node, RefusedError, Route

# What a helper does for itself, or for things of its own that are not there.
NOTHING: dict[str, Any] = {"adopt": None, "bye": None, "end": {}, "leftovers": [], "log_tails": {}, "note": None}
CLOCK_ERROR_NS = 250_000_000  # from a daemon's step to its event here
ASKED = ("hello", *DECIDING)


class ApiShell(HelperShell):
    """One node through its daemon's API; `call` knows the operations of the protocol, anything else is refused."""

    def __init__(self, node: Node, route: Route, answer: Answer) -> None:
        self._node, self._route, self._answer = node, route, answer
        self.on_wait: Callable[[], None] = lambda: None
        self.facts: dict[str, Any] = self.call("hello")

    def begin(self, op: str, /, *, on_progress: Callable[..., None] | None = None, **args: Any) -> Asked:
        """Nothing goes on in the background here."""
        raise self._refusal(op)

    def call(self, op: str, /, *, timeout_s: float | None = 30.0, **args: Any) -> Any:
        """Answer in the place of a helper; HelperError of kind `no-helper` for what only a helper can do."""
        self.on_wait()
        if op == "ping":
            return {"boot_ns": 0}
        if op == "runs":
            return []
        if op == "open":
            return self._open(**args)
        if op in NOTHING:
            return NOTHING[op]
        if op in ASKED:
            return self._answer(self, op, args)
        raise self._refusal(op)

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, check: bool = True, stdin: str = "") -> Finished:
        """No program can be run here."""
        raise self._refusal("run")

    def clock(self) -> tuple[int, int]:
        """Stamps are our own, of when the daemon's word came."""
        return 0, CLOCK_ERROR_NS

    def kill(self) -> None:
        """There is no connection to end."""

    def close(self) -> None:
        """There is no connection to end."""

    def _refusal(self, op: str) -> HelperError:
        text = f"node {self._node.name} is reached by its daemon's API alone, which has no {op}"
        return HelperError(text, kind="no-helper", hint="add it by ssh: reberth node add NAME ADDRESS")

    def _open(self, run_id: str, role: str, workload: str, version: str = "") -> dict[str, Any]:
        """The lock that a helper keeps on its node: here the open runs of this controller are looked through."""
        for other in runs():
            journal = Journal(other)
            if other != run_id and is_open(journal.last("end")) and self._concerns(journal, role, workload):
                raise HelperError(f"{workload} is busy with run {other}", kind="busy")
        return {}

    def _concerns(self, journal: Journal, role: str, workload: str) -> bool:
        plan = (journal.last("plan") or {}).get("plan")
        if not plan:
            return False
        backend, names = plan["workload"]["backend"], (plan["workload"]["name"], plan["target_name"])
        ends = ((plan["source"]["name"], names[0]), (plan["target"]["name"], names[1]))
        return any((node, f"{backend}/{name}") == (self._node.name, workload) for node, name in ends)


def require_login(*shells: HelperShell) -> None:
    """Refuse what reads or writes files of a node without a login."""
    for shell in shells:
        if isinstance(shell, ApiShell):
            text = (
                f"node {shell.node.name} is reached by its daemon's API alone: files of it cannot be kept or put there"
            )
            raise RefusedError(text, hint="it can be moved: reberth move; or add the node by ssh: reberth node add")
