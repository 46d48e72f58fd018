"""A fake tool that does nothing and is content."""

from __future__ import annotations

from reberth.testing.machine import Machine


def main(machine: Machine, words: list[str]) -> None:
    """Do nothing."""
