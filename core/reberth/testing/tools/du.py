"""A fake `du -sk PATH`: the size of what is below a path, in KiB."""

from __future__ import annotations

from reberth.testing.machine import Machine


def main(machine: Machine, words: list[str]) -> None:
    """Print the size and the path."""
    path = words[-1]
    size = sum(p.lstat().st_size for p in machine.path(path).rglob("*"))
    machine.say(f"{size // 1024 + 1}\t{path}")
