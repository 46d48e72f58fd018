"""What every workload is made of: its options, its checks, its seeded content."""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from typing import Any, Callable, Union

PAGE_BYTES = 4096
Bytes = Union[bytes, bytearray]
ANSWER_LIMIT_S = 5.0


class Checks:
    """Collects what a verification found: problems by name, and how many things of each sort were looked at."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.counts: dict[str, int] = {}

    def count(self, what: str, number: int = 1) -> None:
        """Note that ``number`` more things of this sort were checked."""
        self.counts[what] = self.counts.get(what, 0) + number

    def expect(self, good: bool, problem: str) -> bool:
        """Note the problem unless the check is good; returns whether it is."""
        if not good:
            self.problems.append(problem)
        return good

    def equal(self, what: str, found: object, expected: object) -> bool:
        """Note a problem that names both values unless they are equal."""
        return self.expect(found == expected, f"{what}: {short(found)} instead of {short(expected)}")

    def guard(self, what: str, check: Callable[[], None]) -> None:
        """Run one check; an exception out of it is a problem, not the end of the verification."""
        try:
            check()
        except Exception as error:
            self.problems.append(f"{what}: {type(error).__name__}: {error}")


def short(value: object) -> str:
    """One value in at most some 60 characters; of bytes only length and beginning."""
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes {bytes(value[:8]).hex()}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def content(seed: int, label: str, size_bytes: int) -> bytes:
    """Pseudo-random bytes that depend on seed and label alone, the same on every Python >= 3.9."""
    return random.Random(f"{seed}/{label}").randbytes(size_bytes)


def first_difference(found: Bytes, expected: Bytes) -> int:
    """Offset of the first byte that differs, or the shorter length."""
    for offset, (one, other) in enumerate(zip(found, expected)):
        if one != other:
            return offset
    return min(len(found), len(expected))


def write_atomically(path: str, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, path)


def write_json(path: str, data: dict[str, Any]) -> None:
    """Write one JSON document atomically."""
    write_atomically(path, json.dumps(data))


def wait_until(condition: Callable[[], bool], limit_s: float, pause_s: float = 0.005) -> bool:
    """Wait for a condition; returns whether it came true within the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause_s)
    return True


class Workload:
    """One kind of moved program. All methods run in the root process's main thread, never two at once.

    ``step`` is called after each beat of about 1 ms, with the seconds since the last one, and should take less than
    that; ``verify`` must leave everything as it found it, so that it can be asked again (after a second move).
    """

    kind = ""
    plants: tuple[str, ...] = ()

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.directory: str = os.path.abspath(options.dir)
        self.seed: int = options.seed

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add this kind's own options."""

    def prepare(self) -> None:
        """Create the files that must exist on both nodes; the same seed gives the same files."""

    def setup(self) -> None:
        """Build the state; runs once before the workload reports that it is ready."""

    def step(self, elapsed_s: float) -> float:
        """Do a little work; returns the seconds of it that must not count as silence (0 nearly always)."""
        return 0.0

    def verify(self, checks: Checks) -> None:
        """Compare everything with what it must be."""

    def plant(self, kind: str) -> None:
        """Damage one thing without telling the checker."""
        raise KeyError(kind)

    def close(self) -> None:
        """End the children."""
