"""Seven ways to damage an image, as criu's files are damaged by disks, lines and people: 16 images make 112 cases."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

DAMAGES = ("deleted", "half", "shorter", "empty", "flip-1", "flip-2", "flip-3")
COUNT = 16


def damaged(data: bytes, damage: str) -> bytes | None:
    """The file's bytes afterwards; None: it is gone."""
    if damage == "deleted":
        return None
    if damage.startswith("flip"):
        seed = int(damage[-1])
        at = random.Random(seed).randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << seed % 8]) + data[at + 1 :]
    return {"half": data[: len(data) // 2], "shorter": data[:-1], "empty": b""}[damage]


def damage_file(path: Path, damage: str) -> Callable[[], None]:
    """Damage a file; returns what makes it whole again."""
    data, mode, changed = path.read_bytes(), path.stat().st_mode, damaged(path.read_bytes(), damage)
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)

    def whole() -> None:
        path.write_bytes(data)
        path.chmod(mode)

    return whole


def cases(images: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """All damages of 16 images; raises AssertionError when there are fewer images."""
    found = sorted(path for path in images if path.stat().st_size > 1)[:COUNT]
    assert len(found) == COUNT, f"only {len(found)} images: {[path.name for path in images]}"
    for path in found:
        for damage in DAMAGES:
            yield path, damage
