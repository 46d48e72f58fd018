"""What a plugin's commands may ask of the host (reberth_hooks.Controller): programs of this machine, the inventory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reberth.connect.process import Finished, run_local
from reberth_hooks import CommandError, Node, UsageError


class Controller:
    """Cheap to make: what costs is imported when it is asked for."""

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, check: bool = True, stdin: str = "") -> Finished:
        """Run a program on this machine to its end."""
        done = run_local(argv, timeout_s=timeout_s, stdin=stdin)
        if check and done.code != 0:
            lines = (done.err or done.out).strip().splitlines()
            raise CommandError(f"{argv[0]} ended with {done.code}", tail="\n".join(lines[-10:]))
        return done

    def nodes(self) -> Mapping[str, Node]:
        """Return the nodes that are configured now."""
        from reberth.cli import common

        return common.load_config().nodes

    def add_node(self, node: Node, host_key: str) -> tuple[Node, Mapping[str, str]]:
        """Pin, probe and store; a failure leaves the inventory and the pinned key as they were."""
        from reberth.cli import common
        from reberth.commands import add_node as nodeadd

        config = common.load_config()
        with nodeadd.kept_on_failure(node.name):
            pinned = nodeadd.pin(node, host_key)
            probed, unusable = nodeadd.probe(pinned, config, lambda with_it: common.open_host(with_it, quiet=True))
            nodeadd.store(probed)
        return probed, unusable

    def remove_node(self, name: str) -> bool:
        """Forget a node and its key; False when no configuration of this user had it."""
        from reberth.commands import add_node as nodeadd
        from reberth.config import inventory

        try:
            inventory.remove_node(name)
        except UsageError:
            return False
        nodeadd.unpin(name)
        return True
