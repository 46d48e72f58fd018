"""A service address of the demo's own, which moves with its Redis: the client keeps its one connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reberth_lab.lab import Lab
from reberth_lab.links import PREFIX_LENGTH
from reberth_lab.node import Node
from reberth_lab.proc import run

HOST = 200  # no node of a lab has so high a number
INTERFACE = "eth0"


@contextmanager
def service_address(lab: Lab, source: Node, target: Node) -> Iterator[str]:
    """An address on the source for as long as the demo lasts; at the end no node has it."""
    address = lab.site.address(HOST)
    _remove(address, source, target)  # of a demo that was killed
    source.run(["ip", "address", "add", f"{address}/{PREFIX_LENGTH}", "dev", INTERFACE])
    # The outer machine may remember the target from an earlier demo, and nobody announces what is added by hand.
    run(["ip", "neighbour", "flush", "to", address, "dev", lab.site.bridge])
    try:
        yield address
    finally:
        _remove(address, source, target)


def _remove(address: str, *nodes: Node) -> None:
    for node in nodes:
        node.run(["ip", "address", "del", f"{address}/{PREFIX_LENGTH}", "dev", INTERFACE], check=False)


def enabled_inventory(lab: Lab) -> Path:
    """Return the lab's inventory with the wrapper `address` enabled on each node, as `reberth node enable`
    would do it.
    """
    text = lab.config_path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("wrappers")]
    at_ends = [[line, 'wrappers = ["address"]'] if line.startswith("transports") else [line] for line in lines]
    path = lab.site.state / "demo.toml"
    path.write_text("".join(f"{line}\n" for pair in at_ends for line in pair), encoding="utf-8")
    return path
