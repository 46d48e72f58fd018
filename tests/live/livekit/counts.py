"""How often criu and runc really ran, read from the nodes' own journals, and the floors below which CI fails."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

FLOORS = Path(__file__).resolve().parents[1] / "floor.toml"
JOURNALS = ("var/lib/reberth/*/journal.jsonl", "var/lib/reberth/ended/*/journal.jsonl")


class Counts:
    """Collects journals as they come: a node keeps only its newest ones, so this is asked after every test."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], Counter[str]] = {}

    def collect(self, nodes: Mapping[str, Path]) -> None:
        """Read every journal below these root folders (name -> root)."""
        for name, root in nodes.items():
            for path in (found for pattern in JOURNALS for found in root.glob(pattern)):
                self._runs[name, path.parent.name] = count(_records(path))

    def total(self) -> Counter[str]:
        """`criu_dumps`, `criu_restores` and `runc_calls` of all runs."""
        total: Counter[str] = Counter(criu_dumps=0, criu_restores=0, runc_calls=0)
        for one in self._runs.values():
            total.update(one)
        return total

    def __len__(self) -> int:
        return len(self._runs)


def count(records: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """What one journal proves: a dump or restore counts when criu reached its hook, a runc call when it began."""
    found: Counter[str] = Counter()
    to_undo = 0
    for record in records:
        event = record["event"]
        if event == "held":
            found["criu_dumps"] += 1
        elif event == "copy-held":
            found["criu_restores"] += 1
        if event in ("freezing", "restoring") and Path(record["argv"][0]).name == "runc":
            found["runc_calls"] += 1
        if event == "undo" and record["do"] == "run" and Path(record["argv"][0]).name == "runc":
            to_undo += 1
        elif event == "taken-back":
            found["runc_calls"] += to_undo
    return found


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:  # it moved to `ended` meanwhile, or the node is down
        return
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def floors() -> dict[str, int]:
    """The least numbers that a full run must reach."""
    return {key: int(value) for key, value in tomllib.loads(FLOORS.read_text(encoding="utf-8")).items()}
