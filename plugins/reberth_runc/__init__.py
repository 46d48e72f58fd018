"""Backend `runc`: an OCI container by its id, with its bundle; runc drives CRIU, and CRIU's hooks are held by us."""

from __future__ import annotations

import json

from reberth_hooks import HelperError, Mode, Move, Node
from reberth_hooks.criu.oci import OciBackend


class Runc(OciBackend):
    """What runc does its own way. Its memory travels before the freeze, in it, or after it."""

    name = "runc"
    modes = frozenset({Mode.STOP_AND_COPY, Mode.PRE_COPY, Mode.POST_COPY, Mode.HYBRID})
    memory = True
    options = frozenset({"root"})
    own_words = {"tcp-established": "--tcp-established"}
    settings = ("/etc/criu/runc.conf",)

    def program(self, node: Node) -> list[str]:
        """Return the program with the node's own state directory (`[nodes.X.runc] root`)."""
        root = node.options_of("runc").get("root")
        return ["runc", "--root", str(root)] if root else ["runc"]

    def record(self, node: Node, name: str) -> str:
        """Return where that program keeps its record of a container."""
        return str(node.options_of("runc").get("root") or "/run/runc").rstrip("/") + f"/{name}"

    def before_dump(self, move: Move) -> None:
        """Undo an empty file: runc 1.1.15 makes it when CRIU has dumped, and leaves it when that is vetoed."""
        record = self.record(move.plan.source, move.plan.workload.name)
        move.source.call("undo", on="abort", do="rmtree", path=f"{record}/checkpoint")

    def knows(self, move: Move) -> bool:
        """Compare runc's record with what has moved.

        runc forgets a container by itself unless it was killed, and a new container may have the name by now.
        """
        path = f"{self.record(move.plan.source, move.plan.workload.name)}/state.json"
        try:
            record = json.loads(move.source.call("read", path=path))
        except (HelperError, ValueError):
            return False
        details = move.plan.details
        known = record.get("init_process_pid"), record.get("init_process_start")
        return known == (details["pid"], details["start_ticks"])


backend = Runc()
